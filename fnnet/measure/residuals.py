"""What a backward pass stores: the arrays that live from the forward pass to the backward pass."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from fnnet.measure.origin import origin
from fnnet.measure.text import both, table
from fnnet.rules.arguments import is_array
from fnnet.rules.jaxpr import opened


@dataclasses.dataclass(frozen=True)
class Residual:
    """One array that is kept for the backward pass.

    Attributes:
        kind: "argument" (the caller has it anyway), "constant" (closed over by the function: it
            too is there anyway), or "stored" (computed in the forward pass and kept for this).
        name: the argument's name and path, or the op and the primitive that computed it.
        where: the source line that computed it, or empty.
        shape: its shape.
        dtype: its dtype's name.
        nbytes: its size in bytes.
    """

    kind: str
    name: str
    where: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclasses.dataclass(frozen=True, repr=False)
class Residuals(Sequence[Residual]):
    """All that is kept for the backward pass; its `repr` is a table.

    Attributes:
        rows: the arrays, those stored anew last.
    """

    rows: tuple[Residual, ...]

    def __getitem__(self, i: Any) -> Any:
        return self.rows[i]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Residual]:
        return iter(self.rows)

    def nbytes(self, *kinds: str) -> int:
        """The bytes of the residuals of these kinds, or of all."""
        return sum(row.nbytes for row in self.rows if not kinds or row.kind in kinds)

    @property
    def stored(self) -> int:
        """Bytes that the forward pass stores anew: what differentiating costs in memory."""
        return self.nbytes("stored")

    @property
    def given(self) -> int:
        """Bytes of arguments and constants that must not be freed before the backward pass."""
        return self.nbytes("argument", "constant")

    @property
    def total(self) -> int:
        """`stored` and `given` together."""
        return self.nbytes()

    def to_dict(self) -> dict[str, Any]:
        """The rows and sums as plain dicts, numbers and text, ready for JSON."""
        return {
            "stored": self.stored,
            "given": self.given,
            "rows": [dataclasses.asdict(row) for row in self.rows],
        }

    def __repr__(self) -> str:
        if not self.rows:
            return "nothing is stored for the backward pass"
        rows = [
            [
                row.kind,
                row.name,
                f"{row.dtype}[{','.join(map(str, row.shape))}]",
                f"{row.nbytes:,}",
                row.where,
            ]
            for row in self.rows
        ]
        sums = f"stored anew {both(self.stored)}"
        if self.given:
            sums += f", given {both(self.given)}"
        return table(["kind", "name", "array", "bytes", "computed at"], rows, [3]) + f"\n{sums}"


def residuals(
    f: Callable[..., Any], *args: Any, argnums: int | Sequence[int] | None = None
) -> Residuals:
    """The arrays that the forward pass of `f` keeps for its backward pass. Nothing is computed.

    An array that is needed twice is kept, and counted, once. Arrays of no elements and single
    numbers known when `f` is traced are left out.

    Args:
        f: a function of pytrees of arrays.
        args: its arguments. `jax.ShapeDtypeStruct` will do for an array; what is no array nor float
            is passed as it is.
        argnums: which arguments the derivative is asked for, as in `jax.grad`; by default all that
            have one. The fewer, the less is stored.

    Returns:
        A Residuals: a sequence of Residual, with the sums `.stored` and `.given`.

    Raises:
        ValueError: if there is nothing to differentiate, or `argnums` names an argument that is not
            there.

    Example:
        A relu between two linear layers adds nothing: what it keeps, the next layer keeps anyway.

        >>> import jax.numpy as jnp
        >>> from fnnet import lin, relu
        >>> net = lambda x, w1, w2: lin(relu(lin(x, w1)), w2)
        >>> kept = residuals(net, jnp.ones((5, 4)), jnp.ones((4, 3)), jnp.ones((3, 2)))
        >>> [(r.kind, r.name, r.shape) for r in kept if r.kind == "stored"]
        [('stored', 'relu: select_n', (5, 3))]
        >>> kept.stored, kept.given
        (60, 152)
    """
    chosen = _chosen(args, argnums)
    leaves, tree = jax.tree.flatten_with_path(list(args))
    at = [i for i, (_, x) in enumerate(leaves) if _is_operand(x)]
    asked = [i for i in at if leaves[i][0][0].idx in chosen and _is_inexact(leaves[i][1])]
    if not asked:
        raise ValueError(
            "residuals: there is nothing to differentiate: no argument asked for is of a "
            f"floating point or complex dtype; got {[type(a).__name__ for a in args]}"
        )

    def kept(*operands: Any) -> list[Any]:
        values = [x for _, x in leaves]
        for i, x in zip(at, operands, strict=True):
            values[i] = x

        def of_asked(*some: Any) -> Any:
            full = list(values)
            for i, x in zip(asked, some, strict=True):
                full[i] = x
            return f(*jax.tree.unflatten(tree, full))

        return jax.tree.leaves(jax.vjp(of_asked, *[values[i] for i in asked])[1])

    jaxpr, _ = opened(jax.make_jaxpr(kept)(*[leaves[i][1] for i in at]))
    names = dict(zip(jaxpr.invars, _names(f, args, [leaves[i][0] for i in at]), strict=True))
    rows: dict[Any, Residual] = {}
    for var in jaxpr.outvars:
        if isinstance(var, core.Literal) or not var.aval.size:
            continue  # `register` keeps a number as the shape of an empty array
        found = origin(jaxpr, var)
        if found.key in rows:
            continue
        if found.var in names:
            kind, name, where = "argument", names[found.var], ""
        elif not found.path:
            kind, name, where = "constant", "(closed over)", ""
        else:
            kind, name, where = "stored", found.name, found.where
        aval = var.aval
        rows[found.key] = Residual(
            kind, name, where, tuple(aval.shape), str(aval.dtype), aval.size * aval.dtype.itemsize
        )
    return Residuals(tuple(sorted(rows.values(), key=lambda row: row.kind == "stored")))


def _chosen(args: Sequence[Any], argnums: int | Sequence[int] | None) -> set[int]:
    if argnums is None:
        return set(range(len(args)))
    wanted = [argnums] if isinstance(argnums, int) else list(argnums)
    if any(not -len(args) <= n < len(args) for n in wanted):
        raise ValueError(f"residuals: argnums {argnums} with {len(args)} argument(s)")
    return {n % len(args) for n in wanted}


def _is_operand(x: Any) -> bool:
    return is_array(x) or isinstance(x, jax.ShapeDtypeStruct) or type(x) in (float, complex)


def _is_inexact(x: Any) -> bool:
    dtype = x.dtype if hasattr(x, "dtype") else np.dtype(type(x))
    return bool(jax.numpy.issubdtype(dtype, np.inexact))


def _names(f: Callable[..., Any], args: Sequence[Any], paths: Sequence[Any]) -> list[str]:
    """A name for each array among the arguments: its parameter's, and the path in it."""
    try:
        bound = inspect.signature(f).bind(*args)
    except (TypeError, ValueError):  # some callables tell no signature
        arguments = [f"args[{i}]" for i in range(len(args))]
    else:
        arguments = []
        for name, value in bound.arguments.items():
            kind = bound.signature.parameters[name].kind
            several = kind is inspect.Parameter.VAR_POSITIONAL
            arguments += [f"{name}[{i}]" for i in range(len(value))] if several else [name]
    return [arguments[path[0].idx] + jax.tree_util.keystr(path[1:]) for path in paths]
