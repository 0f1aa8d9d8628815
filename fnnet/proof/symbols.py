"""Symbols for a case's arrays, the points that say which side of a kink is meant, and functions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise, permutations, product
from typing import Any, TypeAlias

import mpmath  # SymPy's own
import numpy as np
import sympy

from fnnet.proof.cases import Instance, Sym
from fnnet.proof.twin.elementary import Table

Point: TypeAlias = dict[Any, Any]  # a rational number for every symbol


def symbol(name: str, index: tuple[int, ...] = ()) -> Any:
    """The symbol of one entry of an argument: x_01."""
    name = {"eps": "epsilon"}.get(name, name)
    separator = "" if all(i < 10 for i in index) else "_"
    return sympy.Symbol(f"{name}_{separator.join(map(str, index))}" if index else name)


def argument(name: str, value: Any) -> Any:
    """An array of symbols for a Sym; anything else as it is."""
    if not isinstance(value, Sym):
        return value
    array = np.empty(value.shape, object)
    for index in np.ndindex(value.shape):
        array[index] = symbol(name, index)
    return array


def option(name: str, value: Any) -> Any:
    """As `argument`, but a bare symbol for Sym(): an option is a number, not an array."""
    return symbol(name) if isinstance(value, Sym) and not value.shape else argument(name, value)


def numbers(name: str, value: Any) -> Point:
    """Different positive fractions for the symbols of an argument, without any pattern."""
    symbols = argument(name, value).ravel().tolist() if isinstance(value, Sym) else []
    numerators = random.Random(name).sample(range(100, 10_000), len(symbols))
    return {s: sympy.Rational(n, 4999) for s, n in zip(symbols, numerators, strict=True)}


def regions(case: Instance) -> Iterator[tuple[tuple[Any, ...], Point]]:
    """Every region the case asks for: its inequalities and one point of it."""
    base: Point = {}
    for name, value in case.arguments.items():
        # Both signs appear; where that matters every pattern is gone through below.
        base |= {s: n * (-1) ** i for i, (s, n) in enumerate(numbers(name, value).items())}
    for name, value in case.options.items():
        base |= numbers(name, value)
    signed = [s for name in case.signs for s in numbers(name, case.arguments[name])]
    ordered = [s for name in case.orders for s in numbers(name, case.arguments[name])]
    ascending = sorted(base[s] for s in ordered)
    for signs in product((1, -1), repeat=len(signed)):
        for order in permutations(ordered):
            inequalities = [
                sympy.Gt(s, 0, evaluate=False) if sign > 0 else sympy.Lt(s, 0, evaluate=False)
                for s, sign in zip(signed, signs, strict=True)
            ]
            inequalities += [sympy.Lt(a, b, evaluate=False) for a, b in pairwise(order)]
            point = base | {s: c * abs(base[s]) for s, c in zip(signed, signs, strict=True)}
            yield tuple(inequalities), point | dict(zip(order, ascending, strict=True))


def value(expression: Any, point: Point) -> Any:
    """The expression's value at the point, to 30 digits."""
    return sympy.N(sympy.sympify(expression).xreplace(point), 30)


def approximately(expression: Any, point: Point) -> Any:
    """As `value`, to 50 digits less those that cancel; each part of the expression once."""
    e = sympy.sympify(expression)
    symbols = list(e.free_symbols)
    f = sympy.lambdify(symbols, e, "mpmath", cse=True)
    with mpmath.workdps(50):
        return f(*(mpmath.mpf(int(point[s].p)) / int(point[s].q) for s in symbols))


def exactly(expression: Any) -> Any:
    """The expression with every float in it replaced by the fraction it is."""
    e = sympy.sympify(expression)
    return e.xreplace({f: sympy.Rational(f) for f in e.atoms(sympy.Float)})


def table(point: Point) -> Table:
    """What the twins' elementary functions are on symbols; comparisons are decided at the point."""

    def greater(a: Any, b: Any) -> bool:
        a, b = sympy.sympify(a), sympy.sympify(b)
        if a == b:  # two pads, say
            return False
        x, y = value(a, point), value(b, point)
        if x == y:
            raise ValueError(f"{a} = {b} at the point chosen: a kink, nothing to prove there")
        return bool(x > y)

    def elementwise(f: Callable[..., Any], arguments: int = 1) -> Callable[..., Any]:
        function: Callable[..., Any] = np.frompyfunc(f, arguments, 1)
        return function

    is_greater = elementwise(greater, 2)
    return {
        "exp": elementwise(sympy.exp),
        "log": elementwise(sympy.log),
        "sqrt": elementwise(sympy.sqrt),
        "tanh": elementwise(sympy.tanh),
        "cos": elementwise(sympy.cos),
        "sin": elementwise(sympy.sin),
        "erfc": elementwise(sympy.erfc),
        "greater": lambda x, y: np.asarray(is_greater(x, y), bool),
        "maximum": elementwise(lambda a, b: a if greater(a, b) else b, 2),
        "pi": lambda: sympy.pi,
    }
