"""The one table of ops. A new op is a new row; every generic test picks it up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.proof import reference as twin

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to call one op.

    Attributes:
        name: of the row.
        op: the public function.
        plain: the same, as anyone would write it in jax.numpy, without custom rules.
        shapes: of the arguments.
        batch: for each argument, the axis along which it is cut over devices, or None.
        layouts: for each argument, its PartitionSpec on a mesh of axes "d" (2) and "m" (2).
        big: shapes at which memory is compared.
        terms: how many numbers are added up into one number of a result, at `shapes`.
        complex_too: whether complex arrays are accepted.
        scalar: whether the result is one number for the whole batch.
        kinks: arguments at which the derivative is a choice, and the derivative chosen.
        majorant: a function that bounds the sizes of the terms added up, at absolute arguments.
        twin: the NumPy twin's vjp.
        variant: a further row of an op: it skips the tests that take long and that one row of the
            op goes through (see `each_op`).
    """

    name: str
    op: Callable[..., Any]
    plain: Callable[..., Any]
    shapes: Sequence[Shape]
    batch: Sequence[int | None]
    big: Sequence[Shape]
    terms: int
    layouts: Sequence[Sequence[P]] = ()
    complex_too: bool = False
    scalar: bool = False
    kinks: Sequence[tuple[Sequence[float], Sequence[float]]] = ()
    majorant: Callable[..., Any] | None = None
    twin: Callable[..., Any] | None = None
    variant: bool = False

    def args(self, key: jax.Array, dtype: Any = "float64", big: bool = False) -> list[jax.Array]:
        """Random arguments."""
        shapes = self.big if big else self.shapes
        keys = jax.random.split(key, len(shapes))
        return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]

    @property
    def op_name(self) -> str:
        return self.op.__name__

    @property
    def fwd(self) -> Callable[..., Any]:
        return getattr(fnnet.ops, f"{self.op_name}_fwd")  # type: ignore[no-any-return]

    @property
    def bwd(self) -> Callable[..., Any]:
        return getattr(fnnet.ops, f"{self.op_name}_bwd")  # type: ignore[no-any-return]


def _lin(x: Any, w: Any, b: Any = None) -> Any:
    y = jnp.einsum("...i,ij->...j", x, w)
    return y if b is None else y + jnp.broadcast_to(b, y.shape)


def _relu(x: Any) -> Any:
    return jax.nn.relu(x)


def _mse(pred: Any, targ: Any) -> Any:
    return jnp.mean((pred.reshape(targ.shape) - targ) ** 2)


def _mse_of_sizes(pred: Any, targ: Any) -> Any:
    return jnp.mean((pred.reshape(targ.shape) + targ) ** 2)


# a weight whole on every device, cut by column, cut by row
_WEIGHTS = (P(), P(None, "m"), P("m", None))

CASES = [
    Case(
        "lin",
        fnnet.lin,
        _lin,
        shapes=[(8, 6), (6, 4), (4,)],
        batch=[0, None, None],
        layouts=[(P("d"), w, P(None) if i else P()) for i, w in enumerate(_WEIGHTS)],
        big=[(256, 784), (784, 128), (128,)],
        terms=8,
        complex_too=True,
        majorant=_lin,
        twin=twin.lin_vjp,
    ),
    Case(
        "lin without bias, two batch axes",
        fnnet.lin,
        _lin,
        shapes=[(8, 2, 6), (6, 4)],
        batch=[0, None],
        layouts=[(P("d"), w) for w in _WEIGHTS],
        big=[(64, 4, 256), (256, 128)],
        terms=16,
        complex_too=True,
        majorant=_lin,
        twin=lambda x, w, g: twin.lin_vjp(x, w, None, g)[:2],
        variant=True,
    ),
    Case(
        "lin of one sample",
        fnnet.lin,
        _lin,
        shapes=[(6,), (6, 4), (4,)],
        batch=[None, None, None],
        big=[(784,), (784, 128), (128,)],
        terms=6,
        complex_too=True,
        majorant=_lin,
        twin=twin.lin_vjp,
        variant=True,
    ),
    Case(
        "matmul",
        fnnet.matmul,
        jnp.matmul,
        shapes=[(8, 6), (6, 4)],
        batch=[0, None],
        layouts=[(P("d"), w) for w in _WEIGHTS],
        big=[(256, 512), (512, 128)],
        terms=8,
        complex_too=True,
        majorant=jnp.matmul,
        twin=twin.matmul_vjp,
        variant=True,
    ),
    Case(
        "matmul, batched",
        fnnet.matmul,
        jnp.matmul,
        shapes=[(8, 3, 6), (8, 6, 4)],
        batch=[0, 0],
        layouts=[(P("d"), P("d")), (P("d", None, None), P("d", None, "m"))],
        big=[(16, 64, 64), (16, 64, 64)],
        terms=6,
        complex_too=True,
        majorant=jnp.matmul,
        twin=twin.matmul_vjp,
        variant=True,
    ),
    Case(
        "matmul, batch axes broadcast",
        fnnet.matmul,
        lambda a, b: jnp.einsum("pik,qkj->pqij", a[:, 0], b),
        shapes=[(8, 1, 2, 6), (3, 6, 4)],
        batch=[0, None],
        layouts=[(P("d"), P())],
        big=[(16, 1, 64, 64), (8, 64, 64)],
        terms=16,
        complex_too=True,
        majorant=lambda a, b: jnp.einsum("pik,qkj->pqij", a[:, 0], b),
        twin=twin.matmul_vjp,
    ),
    Case(
        "matmul, matrix and vector",
        fnnet.matmul,
        jnp.matmul,
        shapes=[(8, 6), (6,)],
        batch=[0, None],
        layouts=[(P("d"), P())],
        big=[(512, 784), (784,)],
        terms=8,
        complex_too=True,
        majorant=jnp.matmul,
        twin=twin.matmul_vjp,
        variant=True,
    ),
    Case(
        "matmul, vector and batched matrix",
        fnnet.matmul,
        lambda a, b: jnp.einsum("k,pkj->pj", a, b),
        shapes=[(6,), (8, 6, 4)],
        batch=[None, 0],
        layouts=[(P(), P("d"))],
        big=[(64,), (16, 64, 64)],
        terms=32,
        complex_too=True,
        majorant=lambda a, b: jnp.einsum("k,pkj->pj", a, b),
        twin=twin.matmul_vjp,
        variant=True,
    ),
    Case(
        "matmul, two vectors",
        fnnet.matmul,
        jnp.matmul,
        shapes=[(8,), (8,)],
        batch=[None, None],
        big=[(10_000,), (10_000,)],
        terms=8,
        complex_too=True,
        majorant=jnp.matmul,
        twin=twin.matmul_vjp,
        variant=True,
    ),
    Case(
        "relu",
        fnnet.relu,
        _relu,
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d"),), (P("d", "m"),)],
        big=[(512, 256)],
        terms=1,
        kinks=[((0.0, -0.0), (0.0, 0.0))],
        majorant=_relu,
        twin=twin.relu_vjp,
    ),
    Case(
        "mse",
        fnnet.mse,
        _mse,
        shapes=[(8, 6), (8, 6)],
        batch=[0, 0],
        layouts=[(P("d"), P("d")), (P("d", "m"), P("d", "m"))],
        big=[(512, 256), (512, 256)],
        terms=48,
        scalar=True,
        majorant=_mse_of_sizes,
        twin=twin.mse_vjp,
    ),
    Case(
        "mse of a column of predictions",
        fnnet.mse,
        _mse,
        shapes=[(8, 1), (8,)],
        batch=[0, 0],
        layouts=[(P("d"), P("d"))],
        big=[(4096, 1), (4096,)],
        terms=8,
        scalar=True,
        majorant=_mse_of_sizes,
        twin=twin.mse_vjp,
        variant=True,
    ),
]

OP_NAMES = sorted({case.op_name for case in CASES})


def each_case(*, where: Callable[[Case], bool] = lambda case: True) -> Any:
    """Run a test for every row, or for those `where` says."""
    rows = [case for case in CASES if where(case)]
    return pytest.mark.parametrize("case", rows, ids=lambda case: case.name)


def each_op(*, where: Callable[[Case], bool] = lambda case: True) -> Any:
    """Run a test for one row of every op."""
    return each_case(where=lambda case: not case.variant and where(case))
