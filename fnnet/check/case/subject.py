"""The function under test, and its arguments: what is differentiated, and the rest."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util

Arrays = list[Any]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A call, with its arrays taken out.

    Attributes:
        name: of the function.
        values: the arrays that are differentiated (float or complex).
        others: arrays that are not: integers, booleans, keys, floats outside of `argnums`.
        paths: names of `values`, as the user wrote them.
        other_paths: names of `others`.
        fixed: what is held fixed though it might have a derivative, with the remedy.
    """

    name: str
    values: Arrays
    others: Arrays
    paths: list[str]
    other_paths: list[str]
    fixed: dict[str, str]
    _leaves: list[Any]
    _tree: Any
    _at: list[int]
    _others_at: list[int]
    argument_names: list[str]

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments as they came."""
        args, kwargs = jax.tree.unflatten(self._tree, self._leaves)
        return args, kwargs

    def flat(self, f: Callable[..., Any]) -> Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]:
        """`f` as a function ``values, others -> float outputs, other outputs``, all lists."""

        def run(values: Arrays, others: Arrays) -> tuple[Arrays, Arrays]:
            leaves = list(self._leaves)
            for i, v in zip(self._at, values, strict=True):
                leaves[i] = v
            for i, v in zip(self._others_at, others, strict=True):
                leaves[i] = v
            args, kwargs = jax.tree.unflatten(self._tree, leaves)
            out = [
                x if isinstance(x, jax.Array) else jnp.asarray(x)
                for x in jax.tree.leaves(f(*args, **kwargs))
            ]
            return [x for x in out if is_float(x)], [x for x in out if not is_float(x)]

        return run


def is_array(x: Any) -> bool:
    """Whether `x` is an array of JAX or NumPy, or a NumPy scalar, of numbers or keys."""
    if isinstance(x, (np.ndarray, np.generic)):
        return x.dtype.kind not in "OSUMmT"
    return isinstance(x, jax.Array)


def is_float(x: Any) -> bool:
    """Whether an array has a derivative."""
    return bool(jnp.issubdtype(x.dtype, jnp.inexact))


def take_apart(
    f: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any] | None,
    argnums: int | Sequence[int] | None,
    *,
    numbers: bool,
) -> Subject:
    """Sort the leaves of a call.

    Args:
        f: the function.
        args: its positional arguments; what is no tuple or list is the only one.
        kwargs: its keyword arguments. Those of parameters that may be positional are made so.
        argnums: the positions that are differentiated; None for all.
        numbers: whether Python floats are differentiated too.
    """
    if not isinstance(args, (tuple, list)):
        args = (args,)
    names, args, options = _bound(f, tuple(args), dict(kwargs or {}))
    chosen = range(len(args)) if argnums is None else _positions(argnums, len(args))
    static = set(getattr(f, "nondiff_argnums", ()) or ())

    leaves: list[Any] = []
    subject: dict[str, list[Any]] = {k: [] for k in ("values", "others", "paths", "other_paths")}
    at: list[int] = []
    others_at: list[int] = []
    fixed: dict[str, str] = {}
    keyed, tree = tree_util.tree_flatten_with_path((args, options))
    for i, (keys, leaf) in enumerate(keyed):
        is_option = keys[0].idx == 1
        where = keys[1].key if is_option else keys[1].idx
        path = (str(where) if is_option else names[where]) + tree_util.keystr(keys[2:])
        wanted = not is_option and where in chosen and where not in static
        if wanted and (
            (is_array(leaf) and is_float(leaf)) or (numbers and type(leaf) in (float, complex))
        ):
            at.append(i)
            subject["values"].append(_canonical(leaf))
            subject["paths"].append(path)
        elif is_array(leaf) and not (where in static and not is_option):
            others_at.append(i)
            subject["others"].append(_canonical(leaf))
            subject["other_paths"].append(path)
            if is_option and is_float(leaf):
                fixed[path] = (
                    "it is keyword-only; check it through a lambda that takes it by position"
                )
        elif type(leaf) in (float, complex) and wanted:
            fixed[path] = "it is a Python number; pass jnp.asarray of it to have it differentiated"
        leaves.append(leaf)
    return Subject(
        name=_name(f),
        fixed=fixed,
        _leaves=leaves,
        _tree=tree,
        _at=at,
        _others_at=others_at,
        argument_names=names,
        **subject,
    )


def _canonical(x: Any) -> jax.Array:
    """An array of a dtype that is in force: float64 may have been made where x64 was on."""
    array: jax.Array = jnp.asarray(x)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))


def _name(f: Callable[..., Any]) -> str:
    name = getattr(f, "__name__", None) or getattr(getattr(f, "func", None), "__name__", None)
    return str(name or type(f).__name__)


def _positions(argnums: int | Sequence[int], n: int) -> set[int]:
    wanted = [argnums] if isinstance(argnums, int) else list(argnums)
    for i in wanted:
        if not -n <= i < n:
            raise ValueError(f"check: argnums names argument {i}, but there are {n}")
    return {i % n for i in wanted}


def _bound(
    f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[list[str], tuple[Any, ...], dict[str, Any]]:
    """Names of the positional arguments, and the arguments, keywords made positional if may be."""
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # some callables tell no signature
        return [f"args[{i}]" for i in range(len(args))], args, kwargs
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as e:
        raise TypeError(f"check: {_name(f)} cannot be called with these arguments: {e}") from None
    names: list[str] = []
    for p in signature.parameters.values():
        if p.name not in bound.arguments:
            continue
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name}[{i}]" for i in range(len(bound.arguments[p.name]))]
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
    return names, bound.args, bound.kwargs
