"""Is a SymPy expression identically zero? Answered by algebra.

`simplify` tries many things, slowly, and promises nothing. The derivatives of a neural net's ops
need less: every exp, log, tanh, root ... in the expression is written as a power of a new,
independent variable; what is left is a quotient of polynomials, and its numerator is expanded.
If that is 0, the expression is 0 whatever the new variables stand for: so `vanishes` is never
wrongly True. (It may be False for an identity that needs a fact it does not use.)

The facts it uses: a^(u + v) = a^u a^v and a^(n u) = (a^u)^n, also for exp; and (a^u)^v = a^(u v) if
u is not an integer, when a^u is a real function only where a > 0. Where these do not do, also that
sinh, cosh, tanh are made of exp.
"""

from __future__ import annotations

from typing import Any

import sympy


def vanishes(expression: Any) -> bool:
    """True if the expression is proved to be identically zero.

    >>> x, y = sympy.symbols("x y")
    >>> vanishes(sympy.exp(x - y) / (1 + sympy.exp(x - y)) - 1 / (1 + sympy.exp(y - x)))
    True
    >>> vanishes(sympy.diff(sympy.tanh(x), x) - (1 - sympy.tanh(x)))
    False
    >>> vanishes(sympy.tanh(x) - (sympy.exp(x) - sympy.exp(-x)) / (sympy.exp(x) + sympy.exp(-x)))
    True
    """
    e = sympy.sympify(expression)
    numerator, _ = _Algebra().reduced(e)
    if numerator != 0 and e.has(sympy.functions.elementary.hyperbolic.HyperbolicFunction):
        numerator, _ = _Algebra().reduced(e.rewrite(sympy.exp))
    return bool(numerator == 0)


def factored(expression: Any) -> Any:
    """An equal expression: a quotient of products, for people to read.

    >>> x, y = sympy.symbols("x y")
    >>> print(factored(1 / (1 + sympy.exp(y - x)) - 1))
    -exp(y)/(exp(x) + exp(y))
    """
    algebra = _Algebra()
    numerator, denominator = algebra.reduced(sympy.sympify(expression))
    e = sympy.factor(numerator / denominator)
    while e.free_symbols & algebra.meanings.keys():  # a meaning may hold other variables
        e = e.xreplace(algebra.meanings)
    return e


class _Algebra:
    """The new variables of one question, and the roots among them."""

    def __init__(self) -> None:
        self.variables: dict[Any, Any] = {}  # what is replaced, in one form -> its variable
        self.meanings: dict[Any, Any] = {}  # variable -> what it stands for
        self.roots: dict[Any, tuple[Any, int]] = {}  # variable r -> (a, n): r^n = a

    def reduced(self, expression: Any) -> tuple[Any, Any]:
        """Numerator, expanded and with no root r to a power above n - 1, and denominator."""
        quotient = _quotient(self.rational(expression))
        # A root's a may hold older roots, never younger ones: so from the youngest backwards.
        for root, (a, n) in reversed(self.roots.items()):
            top, bottom = quotient
            if top.has(root):
                powers = sympy.Poly(top, root).terms()
                lower = sum(c * root ** (k % n) * a ** (k // n) for (k,), c in powers)
                quotient = _quotient(lower / bottom)
        return quotient

    def variable(self, key: Any, meaning: Any) -> Any:
        """The variable for a function of variables; equal keys get the same."""
        if key not in self.variables:
            self.variables[key] = new = sympy.Dummy(f"t{len(self.variables)}")
            self.meanings[new] = meaning
        return self.variables[key]

    def rational(self, e: Any) -> Any:
        """The expression as a rational function of symbols and new variables."""
        if e.is_Symbol or e.is_Rational:
            return e
        if not e.args:  # pi, or a float, whose value is a fraction
            return sympy.Rational(e) if e.is_Float else self.variable(e, e)
        if e.is_Add or e.is_Mul:
            return e.func(*map(self.rational, e.args))
        if isinstance(e, sympy.exp):
            return self.power(sympy.E, e.args[0])
        if e.is_Pow:
            base, exponent = e.args
            if exponent.is_Integer:
                return self.rational(base) ** exponent
            return self.power(base, exponent)
        function = e.func(*map(self.canonical, e.args))  # tanh, log, erfc ...
        # SymPy makes -tanh(t) of tanh(-t), say: then it is not one function any more.
        return (
            self.variable(function, function)
            if function.func == e.func
            else self.rational(function)
        )

    def canonical(self, e: Any) -> Any:
        """One form for expressions that are equal, as far as expanding and cancelling shows it."""
        return sympy.cancel(self.rational(e))

    def power(self, base: Any, exponent: Any) -> Any:
        """base^(sum_i p_i/q_i m_i) as the product of (base^(m_i / q_i))^p_i, variables to p_i."""
        while base.is_Pow and not base.exp.is_Integer:
            base, exponent = base.base, base.exp * exponent
        if base is not sympy.E:
            base = self.canonical(base)
        result = sympy.Integer(1)
        for term in sympy.Add.make_args(sympy.expand(exponent)):
            c, m = term.as_coeff_Mul(rational=True)
            m = self.canonical(m)
            if m != 1 or base is sympy.E:
                whole = self.variable(("power", base, m), base**m)
            else:
                whole = base
            result *= self.root(whole, int(c.q)) ** int(c.p)
        return result

    def root(self, a: Any, n: int) -> Any:
        """The variable for a^(1/n)."""
        if n == 1:
            return a
        r = self.variable(("root", a, n), sympy.root(a, n))
        self.roots.setdefault(r, (a, n))
        return r


def _quotient(e: Any) -> tuple[Any, Any]:
    top, bottom = sympy.fraction(sympy.together(e))
    return sympy.expand(top), bottom
