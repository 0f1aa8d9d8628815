"""SymPy proves the backward rules of `fnnet.proof.reference`, exactly, at small shapes.

For every case of `fnnet.proof.cases` the twin's forward runs on arrays of SymPy symbols and gives
expressions. The scalar L = sum(g * out), with a symbol for every entry of g, is differentiated by
SymPy for every input symbol: that is, by definition, the cotangent a backward rule must return. The
twin's rule runs on the same symbols, and the difference of the two must be identically 0
(`fnnet.proof.identity`). No number is rounded anywhere. A rule of forward mode is proved alike: it
must be the sum, over all input symbols, of their tangents times SymPy's derivative of out.

>>> proof = prove("lin")
>>> proof.exact
True
>>> print(proof.claims[0].rule["w"][0, 1])
g_01*x_00 + g_11*x_10

A wrong rule is refuted, and the expressions that differ are shown:

>>> from fnnet.proof import reference
>>> def forgets_the_2(pred, targ, g):
...     return tuple(d / 2 for d in reference.mse_vjp(pred, targ, g))
>>> proof = prove("mse", vjp=forgets_the_2)
>>> proof.exact
False
>>> print(proof.differences[0])
  dpred[0]: the rule is not the derivative
    rule        g*(pred_0 - targ_0)/2
    derivative  g*(pred_0 - targ_0)
    difference  g*(pred_0 - targ_0)/2

A rule of your own is proved alike. It is written in NumPy; exp, tanh and the like come from
`fnnet.proof.twin.elementary`, which computes them for numbers and for symbols:

>>> from fnnet.proof.twin.elementary import tanh
>>> def tanh_vjp(x, g):
...     return (g * (1 - tanh(x) ** 2),)
>>> print(prove("tanh", forward=tanh, vjp=tanh_vjp, cases=[Instance({"x": Sym(2, 2)})]))
tanh: 4 derivatives in 1 claim: exact
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

try:
    import sympy
except ImportError as error:
    raise ImportError("fnnet.proof.symbolic needs SymPy: pip install sympy") from error

from fnnet.proof import reference
from fnnet.proof.cases import CASES, Instance, Sym
from fnnet.proof.claim import Claim, Difference, Proof
from fnnet.proof.identity import vanishes
from fnnet.proof.symbols import (
    Point,
    approximately,
    argument,
    exactly,
    numbers,
    option,
    regions,
    table,
)
from fnnet.proof.twin.elementary import Array, calculating_with

__all__ = ["Claim", "Difference", "Instance", "Proof", "Sym", "prove"]


def prove(
    op: str,
    *,
    forward: Callable[..., Any] | None = None,
    vjp: Callable[..., Any] | None = None,
    jvp: Callable[..., Any] | None = None,
    cases: Sequence[Instance] | None = None,
) -> Proof:
    """Prove, or refute, that a function's rules are its derivative: backwards, and forwards.

    Args:
        op: Name of an op of fnnet, or of your own.
        forward: The function, in NumPy; the op's twin if None.
        vjp: `vjp(*args, g, **options) -> tuple of cotangents`, one for every positional argument
            that is an array or None (None for those without a derivative), then one for every
            option that is an array of symbols; the twin's rule if None.
        jvp: `jvp(*args, *tangents, **options) -> the tangent of the output`, the tangents in the
            order of the cotangents, those of options by name (dscale of scale). If None: for an op
            of fnnet the twin's, if it has one, unless forward or vjp is another; else no tangent is
            proved.
        cases: The calls to prove it for; the op's own if None.

    Returns:
        A Proof: `.exact`, `.differences`, `.claims`, `.tangents`, `.shapes`, `.latex`.

    Raises:
        ValueError: Something is not given, and `op` is not an op of fnnet.
    """
    if op not in reference.OPS and (forward is None or vjp is None or cases is None):
        raise ValueError(
            f"prove: {op!r} is no op of fnnet ({', '.join(reference.OPS)}); "
            "for your own give forward, vjp and cases"
        )
    f = forward or getattr(reference, op)
    rule = vjp or getattr(reference, f"{op}_vjp")
    if jvp is None and forward is None and vjp is None:
        jvp = getattr(reference, f"{op}_jvp", None)
    where = [(c, *r) for c in (CASES[op]() if cases is None else cases) for r in regions(c)]
    claims = tuple(_claim(*at, f, rule) for at in where)
    return Proof(op, claims, () if jvp is None else tuple(_tangent(*at, f, jvp) for at in where))


def _symbols(case: Instance) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments and the options, as symbols."""
    arguments = {name: argument(name, v) for name, v in case.arguments.items()}
    options = {
        name: (argument if name in case.learned else option)(name, v)
        for name, v in case.options.items()
    }
    return arguments, options


def _claim(
    case: Instance,
    region: tuple[Any, ...],
    point: Point,
    forward: Callable[..., Any],
    vjp: Callable[..., Any],
) -> Claim:
    arguments, options = _symbols(case)
    with calculating_with(table(point)):
        out = np.asarray(forward(*arguments.values(), **options))
        g = argument("g", Sym(*out.shape))
        given = vjp(*arguments.values(), g, **options)

    loss = sympy.Add(*(exactly(term) for term in np.ravel(g * out)))
    derivative = {}
    for name, symbols in (arguments | options).items():
        if _has_derivative(symbols):
            derivative[name] = np.empty(symbols.shape, object)
            for index in np.ndindex(symbols.shape):
                derivative[name][index] = sympy.diff(loss, symbols[index])

    # Sizes and shapes have no place in the tuple; labels and absent arrays have one, for None.
    slots = [name for name, v in case.arguments.items() if not isinstance(v, int | tuple)]
    slots += [name for name in options if name in derivative]
    rule: dict[str, Array] = {}
    differences: list[Difference] = []
    if not isinstance(given, tuple) or len(given) != len(slots):
        got = f"{len(given)} cotangents" if isinstance(given, tuple) else type(given).__name__
        wanted = f"a tuple of {len(slots)} cotangents ({', '.join(slots)})"
        differences.append(Difference("(all)", (), got, wanted, None, True))
    else:
        point = point | numbers("g", Sym(*out.shape))
        for name, cotangent in zip(slots, given, strict=True):
            if name in derivative:
                rule[name] = np.asarray(cotangent)
                differences += _compare(name, rule[name], derivative[name], point)
    shapes = _shapes(case, out)
    return Claim(shapes, options, region, point, out, rule, derivative, tuple(differences))


def _tangent(
    case: Instance,
    region: tuple[Any, ...],
    point: Point,
    forward: Callable[..., Any],
    jvp: Callable[..., Any],
) -> Claim:
    """Of the rule of forward mode."""
    arguments, options = _symbols(case)
    moving = {n: s for n, s in (arguments | options).items() if _has_derivative(s)}
    dots = {name: argument(f"d{name}", Sym(*symbols.shape)) for name, symbols in moving.items()}
    given = [dots.get(n) for n, v in case.arguments.items() if not isinstance(v, int | tuple)]
    of_options = {f"d{name}": dots[name] for name in options if name in dots}
    with calculating_with(table(point)):
        out = np.asarray(forward(*arguments.values(), **options))
        rule = np.asarray(jvp(*arguments.values(), *given, **of_options, **options))
    derivative = np.empty(out.shape, object)
    for index in np.ndindex(out.shape):
        value = exactly(out[index])
        derivative[index] = sympy.Add(
            *(
                sympy.diff(value, symbol) * dot
                for name, symbols in moving.items()
                for symbol, dot in zip(symbols.ravel(), dots[name].ravel(), strict=True)
            )
        )
    for name, symbols in moving.items():
        point = point | numbers(f"d{name}", Sym(*symbols.shape))
    differences = tuple(_compare("out", rule, derivative, point))
    found = {"out": rule}, {"out": derivative}
    return Claim(_shapes(case, out), options, region, point, out, *found, differences)


def _has_derivative(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == object


def _shapes(case: Instance, out: Array) -> dict[str, tuple[int, ...]]:
    shapes = {name: v.shape for name, v in case.arguments.items() if isinstance(v, Sym)}
    return shapes | {"out": out.shape}


def _compare(name: str, rule: Array, derivative: Array, point: Point) -> Iterator[Difference]:
    if rule.shape != derivative.shape or rule.tolist() is None:
        got = "None" if rule.tolist() is None else f"shape {rule.shape}"
        yield Difference(name, (), got, f"shape {derivative.shape}", None, True)
        return
    for index in np.ndindex(derivative.shape):
        wanted, given = derivative[index], exactly(rule[index])
        at_point = approximately(wanted, point)
        # Unequal at a point: not equal, and quickly seen. Else algebra must decide.
        refuted = bool(abs(at_point - approximately(given, point)) > 1e-12 * (1 + abs(at_point)))
        if refuted or not vanishes(wanted - given):
            yield Difference(name, index, rule[index], wanted, wanted - given, refuted)
