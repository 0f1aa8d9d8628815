"""`register(forward, fwd, bwd)`: a function whose derivative is the one you derived.

The one seam between hand-written rules and JAX. A rule is written as in a textbook, for one device,
for one dtype, all cotangents at once; what JAX asks beyond that is done here:

- the cotangent contract (`agreement`): number, structure, shape and dtype, checked;
- cotangents nobody asked for are not computed, nor is what only they need stored (`prune`);
- the matmul precision in force around the forward holds in the backward, as in autodiff;
- replicated arguments under `shard_map`, and meshes with explicit axes (`mesh`);
- arguments that are not arrays, integer arguments, pytrees, keywords, options.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from fnnet.rules.agreement import is_differentiable
from fnnet.rules.arguments import Arguments
from fnnet.rules.forward import form_of
from fnnet.rules.mesh import forward_with_axes_automatic
from fnnet.rules.modes import in_both_modes
from fnnet.rules.passes import Pass, Rule
from fnnet.rules.refusals import (
    asked_of,
    closed_over,
    differentiated,
    forward_mode,
    no_derivative,
    stand_ins,
)
from fnnet.rules.wrapper import Wrapper

P = ParamSpec("P")
R = TypeVar("R")


def register(
    forward: Callable[P, R],
    fwd: Callable[..., tuple[Any, Any]],
    bwd: Callable[..., Sequence[Any]],
    *,
    name: str | None = None,
    static_argnames: str | Sequence[str] = (),
    automatic_axes: bool = False,
    forward_mode: bool = True,
    jvp: Callable[..., Any] | None = None,
    tangent: Callable[..., Any] | None = None,
) -> Callable[P, R]:
    """Give `forward` the derivative rule ``(fwd, bwd)``.

    ::

        forward : a, b, ...        -> out
        fwd     : a, b, ...        -> (out, res)
        bwd     : res, CT out      -> (CT a, CT b, ...)

    where ``CT a``, the cotangent of `a`, has the structure, shape and dtype of `a`.

    Args:
        forward: the function, of arrays and pytrees of arrays.
        fwd: the same value, and what the backward pass needs of it: `res`, any pytree. It calls
            plain functions, not the registered one: else forward-over-reverse differentiation
            (`jax.hessian`) meets a rule it cannot pass. Leaves of `res` that are not arrays
            (numbers, strings, shapes) reach `bwd` as they are.
        bwd: from `res` and the cotangent of `out` the cotangents of the arguments, a tuple with one
            entry for every positional parameter of `forward` that is not static. None stands for a
            zero cotangent, and is what integer, boolean and key arguments get.
        name: the op's name in messages and in jaxprs; `forward.__name__` by default.
        static_argnames: positional parameters that are not differentiated and have no cotangent,
            such as an axis. They, and keyword-only parameters (options), are passed to `bwd` too if
            it has parameters of their names. An option that `fwd` does not take keeps its default.
        forward_mode: whether the function has a forward mode too; without it, JAX refuses one.
        jvp: the rule of forward mode, if you derived that too, as `jax.custom_jvp` has it::

                jvp : (a, b, ...), (T a, T b, ...) -> (out, T out)

            of the arguments that are not static; linear in the tangents, which are zeros where
            nothing was asked. It takes static arguments and options by name, as `bwd` does. By
            default JAX differentiates `forward`.
        tangent: the same from what `fwd` saves, in place of `jvp`::

                tangent : res, T a, T b, ... -> T out

            None stands for a tangent that is zero, also in what it returns. What `bwd` and it need
            for such a tangent alone may be missing in `res`. It is what `jax.linearize` gives, too.
        automatic_axes: for a forward with loops or slices, which know nothing of shardings: on a
            mesh of explicit axes `forward` and `fwd` run with the axes automatic, as `bwd` always
            does. The result is sharded as the first argument is, on the axes it shares with it.

    Returns:
        The differentiable function, with `forward`'s signature, docstring and name. Grad, jvp,
        vmap, scan, checkpoint, shard_map and second derivatives work. It is not compiled: put
        `jax.jit` around it, or around what calls it. It can be pickled where its module has a name
        for it.

    Raises:
        ValueError: for `static_argnames` that `forward` does not have, or two rules of forward
            mode.
        TypeError: when called, for a wrong number of cotangents, a wrong structure or dtype, for
            forward mode, or a derivative asked of a keyword-only or static argument, or of what the
            functions close over.
        ValueError: when called, for a wrong shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import register
        >>> def cube(x):
        ...     return x**3
        >>> cube = register(cube, lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))
        >>> float(jax.grad(cube)(2.0))
        12.0

    References:
        JAX, `Custom derivative rules for Python code
        <https://docs.jax.dev/en/latest/notebooks/Custom_derivative_rules_for_Python_code.html>`_.
    """
    name = name or str(getattr(forward, "__name__", "registered"))
    signature = _signature(name, forward)
    static = frozenset([static_argnames] if isinstance(static_argnames, str) else static_argnames)
    if unknown := static - set(signature.parameters):
        raise ValueError(
            f"{name}: static_argnames names {sorted(unknown)}, which forward does not have; "
            f"its parameters are {list(signature.parameters)}"
        )
    rule = Rule(name, forward, fwd, bwd, _accepted(bwd), automatic_axes, forward_mode)
    if jvp is not None or tangent is not None:
        if jvp is not None and tangent is not None:
            raise ValueError(f"{name}: jvp and tangent are two rules of forward mode; give one")
        if not forward_mode:
            raise ValueError(
                f"{name}: forward_mode=False, and a rule of forward mode: leave out one of the two"
            )
        rule = rule._replace(tangent=tangent, tangent_takes=_accepted(tangent))
        rule = rule._replace(jvp=jvp, jvp_takes=_accepted(jvp))
    spare = _spare(signature, fwd)

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as e:
            raise TypeError(f"{name}: {e}; its signature is {name}{signature}") from None
        left_out = spare - bound.arguments.keys()
        bound.apply_defaults()
        free = closed_over(forward, fwd, bwd)
        arguments = Arguments(signature, bound, static, left_out, free)
        try:
            return _call(rule, arguments)  # type: ignore[no-any-return]
        except (TypeError, AttributeError) as e:
            if refused := stand_ins(name, bound.arguments, e):
                raise refused from e
            raise

    op = Wrapper(forward, run)
    op.__name__ = op.__qualname__ = name  # type: ignore[attr-defined]
    return op


def _signature(name: str, forward: Callable[..., Any]) -> inspect.Signature:
    if not callable(forward):
        raise TypeError(f"register: forward must be a function; got {forward!r}")
    try:
        return inspect.signature(forward)
    except ValueError:
        raise ValueError(
            f"register: {name} does not tell its parameters (many functions written in C do not). "
            "Give forward as a function of yours that calls it, such as lambda x: "
            f"{name}(x)"
        ) from None


def _accepted(rule: Callable[..., Any] | None) -> frozenset[str]:
    """The names a rule takes beside its first two arguments: residuals and cotangent, say."""
    if rule is None:
        return frozenset()
    try:
        return frozenset(list(inspect.signature(rule).parameters)[2:])
    except (TypeError, ValueError):  # some callables tell no signature
        return frozenset()


def _spare(signature: inspect.Signature, fwd: Callable[..., Any]) -> frozenset[str]:
    """Options of forward that `fwd` does not take: jnp.multiply has `out` and `where`, say."""
    try:
        taken = inspect.signature(fwd).parameters.values()
    except (TypeError, ValueError):  # some callables tell no signature
        return frozenset()
    if any(p.kind is p.VAR_KEYWORD for p in taken):
        return frozenset()
    options = (p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY)
    spare = {p.name for p in options if p.default is not p.empty}
    return frozenset(spare - {p.name for p in taken})


def _call(rule: Rule, arguments: Arguments) -> Any:
    """Call the function as a `jax.custom_vjp` of the arrays among its arguments."""
    passes: dict[int, Pass] = {}
    numbers = itertools.count()

    def run(f: Callable[..., Any], operands: Sequence[Any], *, is_rule: bool = False) -> Any:
        if not rule.automatic:
            return f(*operands)
        return forward_with_axes_automatic(f, operands, is_rule=is_rule)

    def primal(_: Any, *operands: Any) -> Any:
        def forward(*operands: Any) -> Any:
            args, options = arguments.rebuilt(operands)
            return rule.forward(*args, **options)

        return run(forward, operands)

    def passed(operands: Sequence[Any], wanted: Sequence[bool]) -> tuple[Any, Pass]:
        """The value, and the pass it belongs to."""
        if what := arguments.closed_over(wanted):
            raise no_derivative(rule.name, what)
        # a derivative by any of the others is asked of what stands for it
        wanted = [w and i < arguments.count for i, w in enumerate(wanted)]

        def forward(*operands: Any) -> Any:
            args, options = arguments.rebuilt(operands)
            with arguments.precision():
                return rule.fwd(*args, **options)

        pair = run(forward, operands, is_rule=True)
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise TypeError(
                f"{rule.name}: the forward rule must return a pair (out, res); "
                f"it returned {type(pair).__name__}"
            )
        out, res = pair
        _same_type(rule.name, out, jax.eval_shape(primal, (), *operands))
        known = arguments.known(operands)
        taken = {k: known[k] for k in rule.bwd_takes | rule.tangent_takes if k in known}
        return out, Pass(rule, arguments, operands, wanted, out, (res, taken))

    def fwd(_: Any, *primals: Any) -> tuple[Any, list[Any]]:
        out, this = passed([p.value for p in primals], [p.perturbed for p in primals])
        # The backward pass must find the pass it belongs to. One traced call may be differentiated
        # in several ways (for x, for w), but JAX keeps one structure of residuals for them all: so
        # the number travels as a shape, which is as static and is kept with each.
        n = next(numbers)
        passes[n] = this
        return out, [jnp.zeros((0, n), bool), *this.release()]

    def bwd(saved: list[jax.Array], g: Any) -> tuple[Any, ...]:
        number, *residuals = saved
        this = passes[number.shape[-1]]
        return [jnp.zeros((), jnp.float32)] * len(labels), *this.cotangents(residuals, g)

    primal.__name__, fwd.__name__, bwd.__name__ = rule.name, f"{rule.name}_fwd", f"{rule.name}_bwd"
    core = jax.custom_vjp(primal)
    core.defvjp(fwd, bwd, symbolic_zeros=True)
    operands, traced = arguments.release()
    # those of the operands that have no cotangent: which, and what they are called
    labels = {
        i: what
        for what, x in traced
        for i, operand in enumerate(operands)
        if operand is x and is_differentiable(x)
    }

    def call(*operands: Any) -> Any:
        asked = [asked_of(rule.name, what, operands[i]) for i, what in labels.items()]
        # JAX's error, where this is transposed, names no function, but shows this line
        return core(asked, *operands)  # not for jax.linear_transpose: see fnnet.plain

    call.__name__ = rule.name
    try:
        if rule.forward_mode and _are_traced(operands):
            form = form_of(rule, arguments, functools.partial(primal, ()), passed, labels)
            return in_both_modes(call, operands, form=form)
        return call(*operands)
    except Exception as e:
        if differentiated(e) and (what := arguments.closed_over()):
            raise no_derivative(rule.name, what) from e
        if refused := forward_mode(rule.name, e):
            raise refused from (None if refused is e else e)
        raise


def _are_traced(operands: Sequence[Any]) -> bool:
    """Whether a derivative may be asked: not of numbers, and not of what is written to."""
    is_traced = any(isinstance(x, jax.core.Tracer) for x in operands)
    return is_traced and not any(isinstance(x, jax.Ref) for x in operands)


def _same_type(name: str, out: Any, expected: Any) -> None:
    """Refuse a forward rule whose value has not the structure, shapes and dtypes of forward's."""
    got: Any = jax.tree.structure(out)
    want: Any = jax.tree.structure(expected)
    if got == want:
        got, want = (", ".join(map(_type, jax.tree.leaves(tree))) for tree in (out, expected))
        if got == want:
            return
    raise TypeError(
        f"{name}: fwd must return what forward returns, {want}, beside the residuals; "
        f"it returned {got}"
    )


def _type(x: Any) -> str:
    return f"{jnp.result_type(x)}[{','.join(map(str, jnp.shape(x)))}]"
