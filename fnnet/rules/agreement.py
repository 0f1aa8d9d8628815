"""The cotangent contract: one cotangent an argument, of the argument's structure, shape and dtype.

JAX itself broadcasts a cotangent over the leaves of its argument and lets a wrong float dtype pass.
Here each is an error that names the op and the argument.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import dtypes, tree_util

from fnnet.rules.arguments import is_array

SymbolicZero = jax.custom_derivatives.SymbolicZero


def is_differentiable(aval: Any) -> bool:
    """Whether an array of this type has a cotangent: floats and complex numbers do."""
    return bool(jnp.issubdtype(aval.dtype, jnp.inexact))


@dataclasses.dataclass(frozen=True)
class Operand:
    """Stands for an array among the arguments. `weak` is the type of a Python number's array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    weak: bool

    @staticmethod
    def of(aval: Any) -> Operand:
        """The stand-in for an array of this type."""
        return Operand(aval.shape, aval.dtype, aval.weak_type)


def leaf_cotangents(
    op: str, names: Sequence[str], args: Sequence[Any], cts: Any
) -> list[jax.Array | None]:
    """The cotangent of every array leaf of `args`, or None where it is zero.

    Args:
        op: the op's name, for messages.
        names: the arguments' names.
        args: the arguments, pytrees, with an `Operand` in place of every array.
        cts: what the backward rule returned.

    Raises:
        TypeError: for a wrong number of cotangents, structure or dtype.
        ValueError: for a wrong shape.
    """
    takes = f"({', '.join('d' + n for n in names)}{',' if len(names) == 1 else ''})"
    if not isinstance(cts, (tuple, list)):
        raise TypeError(
            f"{op}: the backward rule must return a tuple with one cotangent an argument, "
            f"{takes}; it returned {_describe(cts)}"
        )
    if len(cts) != len(args):
        raise TypeError(
            f"{op}: the backward rule must return {len(args)} cotangent(s), {takes}, one an "
            f"argument, None where it is zero; it returned {len(cts)}"
        )
    found: list[jax.Array | None] = []
    for name, arg, ct in zip(names, args, cts, strict=True):
        for path, leaf, leaf_ct in _pairs(op, name, arg, ct):
            checked = _leaf(op, path, leaf, leaf_ct)
            if isinstance(leaf, Operand):
                found.append(checked)
    return found


def leaf_tangents(op: str, tree: Any, types: Sequence[Any], dots: Any) -> list[Any]:
    """The tangent of every value, zeros for None, from what a rule of forward mode returned.

    Raises:
        TypeError: for a structure or dtype that is not the value's.
        ValueError: for a wrong shape.
    """
    got: Any = jax.tree.structure(dots, is_leaf=lambda x: x is None)
    if dots is None:
        found = [None] * len(types)
    elif got != tree:
        raise TypeError(
            f"{op}: the tangent rule must return the tangent of what forward returns, of its "
            f"structure, {tree}, None where it is zero; it returned {got}"
        )
    else:
        found = jax.tree.leaves(dots, is_leaf=lambda x: x is None)
    checked = []
    for t, dot in zip(types, found, strict=True):
        if dot is None or not is_differentiable(t):
            checked.append(jnp.zeros(t.shape, t.dtype))
            continue
        wants = f"{op}: a tangent must be {_describe(t)} like the value; the tangent rule gave "
        if jnp.shape(dot) != t.shape:
            raise ValueError(f"{wants}{_describe(dot)}. Broadcast it (jnp.broadcast_to)")
        if getattr(dot, "dtype", t.dtype) != t.dtype and not getattr(dot, "weak_type", False):
            raise TypeError(f"{wants}{_describe(dot)}. Cast it where it is computed (.astype)")
        checked.append(jnp.asarray(dot, t.dtype))
    return checked


def _pairs(op: str, path: str, arg: Any, ct: Any) -> Iterator[tuple[str, Any, Any]]:
    """Walk an argument and its cotangent together, leaf by leaf."""
    # a None cotangent stands for zeros of any structure
    if ct is None or tree_util.all_leaves([arg]):
        for keys, leaf in tree_util.tree_flatten_with_path(arg)[0]:
            yield path + tree_util.keystr(keys), leaf, ct
        return
    # one level of the tree: whatever is not `arg` itself counts as a leaf
    children, tree = tree_util.tree_flatten_with_path(arg, is_leaf=lambda x: x is not arg)
    kind: Any = jax.tree.structure(ct, is_leaf=lambda x: x is not ct)
    if kind != tree:
        raise TypeError(
            f"{op}: the cotangent of argument `{path}` must have the argument's structure, {tree}; "
            f"the backward rule gave {kind}"
        )
    parts = tree_util.tree_leaves(ct, is_leaf=lambda x: x is not ct)
    for (keys, child), part in zip(children, parts, strict=True):
        yield from _pairs(op, path + tree_util.keystr(keys), child, part)


def _leaf(op: str, path: str, arg: Any, ct: Any) -> jax.Array | None:
    if ct is None or isinstance(ct, SymbolicZero):
        return None
    where = f"{op}: the cotangent of argument `{path}`"
    is_operand = isinstance(arg, Operand)
    if not is_operand or not is_differentiable(arg):
        if getattr(ct, "dtype", None) == dtypes.float0:
            return None
        kind = _describe(arg) if is_operand else type(arg).__name__
        raise TypeError(
            f"{where}, which is {kind} and has no derivative, must be None; "
            f"the backward rule gave {_describe(ct)}"
        )
    wants = f"must be {_describe(arg)} like the argument; the backward rule gave {_describe(ct)}"
    number = type(ct) in (int, float) or (type(ct) is complex and _is_complex(arg))
    if getattr(ct, "dtype", None) == dtypes.float0:
        raise TypeError(f"{where} {wants}. For a cotangent that is zero return None")
    if not number and not is_array(ct):
        raise TypeError(f"{where} {wants}")
    if jnp.shape(ct) != arg.shape:
        raise ValueError(f"{where} {wants}. Sum over the axes that were broadcast (sum_to)")
    # a Python number took the dtype of the arrays it met: its cotangent comes in theirs
    if number or (arg.weak and is_differentiable(ct) and _is_complex(ct) == _is_complex(arg)):
        return jnp.asarray(ct, arg.dtype)
    if ct.dtype != arg.dtype:
        raise TypeError(f"{where} {wants}. Cast it where it is computed (.astype)")
    return jnp.asarray(ct)


def _is_complex(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jnp.complexfloating))


def _describe(x: Any) -> str:
    if getattr(x, "dtype", None) == dtypes.float0:
        return f"an array of float0, the zero of what has no derivative, of shape {jnp.shape(x)}"
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"{x.dtype}[{','.join(map(str, x.shape))}]"
    if x is None or isinstance(x, (bool, int, float, complex, str)):
        return repr(x)
    return f"{type(x).__name__}" + (f" of length {len(x)}" if hasattr(x, "__len__") else "")
