"""The one table of ops. A new op is a new row; every generic test picks it up."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
        function: the public function.
        plain: the same, as anyone would write it in jax.numpy, without custom rules.
        shapes: of the arguments.
        batch: for each argument, the axis along which it is cut over devices, or None.
        layouts: for each argument, its PartitionSpec on a mesh of axes "d" (2) and "m" (2).
        big: shapes at which memory is compared.
        terms: how many numbers are added up into one number of a result, at `shapes`.
        complex_too: whether complex arrays are accepted.
        scalar: whether the result is one number for the whole batch.
        kinks: arguments at which the derivative is a choice, and the derivative chosen.
        majorant: a function that bounds the sizes of the terms added up, at absolute arguments; by
            default the largest number of each result is taken.
        twin: the NumPy twin's vjp.
        options: keyword arguments of the function, and of `plain`.
        poisoned: the arguments in which NaN and inf are tried, by default all. (Where inf is lost
            in inf - inf, which of the cotangents are NaN depends on the order of sums.)
        any_scale: whether arguments of any size have a well-conditioned derivative.
        of: the op's name, where `function` is not itself the op.
        variant: a further row of an op: it skips the tests that take long and that one row of the
            op goes through (see `each_op`).
    """

    name: str
    function: Callable[..., Any]
    plain_function: Callable[..., Any]
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
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    of: str = ""
    poisoned: Sequence[int] | None = None
    any_scale: bool = True
    variant: bool = False

    def args(self, key: jax.Array, dtype: Any = "float64", big: bool = False) -> list[jax.Array]:
        """Random arguments."""
        shapes = self.big if big else self.shapes
        keys = jax.random.split(key, len(shapes))
        return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True)]

    @functools.cached_property
    def op(self) -> Callable[..., Any]:
        return functools.partial(self.function, **self.options) if self.options else self.function

    @functools.cached_property
    def plain(self) -> Callable[..., Any]:
        return functools.partial(self.plain_function, **self.options)

    @property
    def op_name(self) -> str:
        return self.of or self.function.__name__

    @property
    def fwd(self) -> Callable[..., Any]:
        passes = getattr(fnnet.ops, f"{self.op_name}_fwd")
        passes = _labelled(passes) if self.of == "cross_entropy" else passes
        return functools.partial(passes, **self.options)

    @property
    def bwd(self) -> Callable[..., Any]:
        return getattr(fnnet.ops, f"{self.op_name}_bwd")  # type: ignore[no-any-return]


def _lin(x: Any, w: Any, b: Any = None) -> Any:
    y = jnp.einsum("...i,ij->...j", x, w)
    return y if b is None else y + jnp.broadcast_to(b, y.shape)


def _softmax(z: Any, axis: int = -1) -> Any:
    e = jnp.exp(z - jax.lax.stop_gradient(z.max(axis, keepdims=True)))
    return e / e.sum(axis, keepdims=True)


def _log_softmax(z: Any, axis: int = -1) -> Any:
    d = z - jax.lax.stop_gradient(z.max(axis, keepdims=True))
    return d - jnp.log(jnp.exp(d).sum(axis, keepdims=True))


def _classes(z: Any) -> Any:
    """Integer labels that depend on nothing but the logits, and have no derivative."""
    return jnp.argmin(z, -1)


def _labelled(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` of logits and integer labels as a function of logits (and weights) alone."""
    return lambda z, weights=None, **options: f(z, _classes(z), weights=weights, **options)


def _cross_entropy(
    z: Any,
    labels: Any,
    *,
    smoothing: Any = 0,
    z_loss: Any = 0,
    weights: Any = None,
    ignore_index: Any = None,
    reduction: str = "mean",
) -> Any:
    """By log_softmax and a one-hot, as one writes it first."""
    c = z.shape[-1]
    keep = jnp.ones(z.shape[:-1], z.dtype)
    if labels.ndim < z.ndim:
        if ignore_index is not None:
            keep = (labels != ignore_index).astype(z.dtype)
        labels = jax.nn.one_hot(labels, c, dtype=z.dtype)
    t = (1 - smoothing) * labels + smoothing / c
    e = -(t * _log_softmax(z)).sum(-1) + z_loss * jax.nn.logsumexp(z, axis=-1) ** 2
    w = keep if weights is None else keep * weights
    if reduction == "none":
        return w * e
    return (w * e).sum() / (w.sum() if reduction == "mean" else 1)


@jax.custom_jvp
def _normal_cdf(x: Any) -> Any:
    """By erfc, whose own derivative JAX 0.12 cannot take in shard_map with check_vma=True."""
    return 0.5 * jax.lax.erfc(-x * np.sqrt(0.5).astype(x.dtype))


_normal_cdf.defjvps(lambda t, ans, x: t * jnp.exp(-0.5 * x * x) * float(1 / np.sqrt(2 * np.pi)))


def _layer_norm(x: Any, scale: Any = None, shift: Any = None, eps: float = 1e-5) -> Any:
    c = x - x.mean(-1, keepdims=True)
    y = c / jnp.sqrt((c * c).mean(-1, keepdims=True) + eps)
    y = y if scale is None else y * jnp.broadcast_to(scale, y.shape)
    return y if shift is None else y + jnp.broadcast_to(shift, y.shape)


def _rms_norm(x: Any, scale: Any = None, eps: float = 1e-6) -> Any:
    y = x / jnp.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return y if scale is None else y * jnp.broadcast_to(scale, y.shape)


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
    Case(
        "softmax",
        fnnet.softmax,
        _softmax,
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d"),), (P("d", "m"),)],
        big=[(512, 256)],
        terms=64,
        twin=twin.softmax_vjp,
    ),
    Case(
        "softmax along the first axis",
        fnnet.softmax,
        _softmax,
        shapes=[(6, 8)],
        batch=[1],
        big=[(256, 512)],
        terms=64,
        options={"axis": 0},
        twin=lambda z, g: twin.softmax_vjp(z, g, 0),
        variant=True,
    ),
    Case(
        "log_softmax",
        fnnet.log_softmax,
        _log_softmax,
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d"),), (P("d", "m"),)],
        big=[(512, 256)],
        terms=64,
        twin=twin.log_softmax_vjp,
    ),
    Case(
        "log_softmax along the middle axis",
        fnnet.log_softmax,
        _log_softmax,
        shapes=[(8, 6, 2)],
        batch=[0],
        big=[(64, 256, 8)],
        terms=64,
        options={"axis": 1},
        twin=lambda z, g: twin.log_softmax_vjp(z, g, 1),
        variant=True,
    ),
    Case(
        "cross_entropy of classes",
        _labelled(fnnet.cross_entropy),
        _labelled(_cross_entropy),
        of="cross_entropy",
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d"),)],
        big=[(512, 256)],
        terms=64,
        scalar=True,
        twin=lambda z, g: twin.cross_entropy_vjp(z, np.argmin(z, -1), g)[:1],
    ),
    Case(
        "cross_entropy of distributions, smoothed, with z-loss",
        fnnet.cross_entropy,
        _cross_entropy,
        shapes=[(8, 6), (8, 6)],
        batch=[0, 0],
        layouts=[(P("d"), P("d"))],
        big=[(512, 256), (512, 256)],
        terms=256,
        scalar=True,
        options={"smoothing": 0.1, "z_loss": 0.01},
        twin=lambda z, t, g: twin.cross_entropy_vjp(z, t, g, smoothing=0.1, z_loss=0.01),
        variant=True,
    ),
    Case(
        "cross_entropy, weighted, one class ignored",
        _labelled(fnnet.cross_entropy),
        _labelled(_cross_entropy),
        of="cross_entropy",
        shapes=[(8, 2, 6), (8, 2)],
        batch=[0, 0],
        big=[(64, 8, 256), (64, 8)],
        terms=256,
        scalar=True,
        options={"ignore_index": 1, "smoothing": 0.1},
        twin=lambda z, w, g: twin.cross_entropy_vjp(
            z, np.argmin(z, -1), g, weights=w, ignore_index=1, smoothing=0.1
        )[::2],
        variant=True,
        poisoned=[],  # what is ignored hides NaN: see test_edges
        any_scale=False,  # dw is the difference of each loss and the mean
    ),
    Case(
        "cross_entropy of each sample",
        _labelled(fnnet.cross_entropy),
        _labelled(_cross_entropy),
        of="cross_entropy",
        shapes=[(8, 6), (8,)],
        batch=[0, 0],
        layouts=[(P("d"), P("d"))],
        big=[(512, 256), (512,)],
        terms=64,
        options={"reduction": "none", "z_loss": 0.01},
        twin=lambda z, w, g: twin.cross_entropy_vjp(
            z, np.argmin(z, -1), g, weights=w, reduction="none", z_loss=0.01
        )[::2],
        variant=True,
        poisoned=[],  # the plain form makes NaN of a probability 0: see test_edges
    ),
    Case(
        "gelu",
        fnnet.gelu,
        lambda x: x * _normal_cdf(x),
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d", "m"),)],
        big=[(512, 256)],
        terms=64,
        twin=twin.gelu_vjp,
    ),
    Case(
        "gelu by tanh",
        fnnet.gelu,
        lambda x, approximate: jax.nn.gelu(x, approximate=approximate),
        shapes=[(8, 6)],
        batch=[0],
        big=[(512, 256)],
        terms=64,
        options={"approximate": True},
        twin=lambda x, g: twin.gelu_vjp(x, g, approximate=True),
        variant=True,
    ),
    Case(
        "silu",
        fnnet.silu,
        lambda x: x * jax.nn.sigmoid(x),
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d", "m"),)],
        big=[(512, 256)],
        terms=64,
        twin=twin.silu_vjp,
    ),
    Case(
        "layer_norm",
        fnnet.layer_norm,
        _layer_norm,
        shapes=[(8, 6), (6,), (6,)],
        batch=[0, None, None],
        layouts=[(P("d"), P(), P()), (P("d", "m"), P("m"), P("m"))],
        big=[(512, 256), (256,), (256,)],
        terms=256,
        twin=twin.layer_norm_vjp,
        poisoned=[0],
    ),
    Case(
        "layer_norm without scale and shift",
        fnnet.layer_norm,
        _layer_norm,
        shapes=[(8, 2, 6)],
        batch=[0],
        big=[(64, 8, 256)],
        terms=256,
        options={"eps": 0.1},
        twin=lambda x, g: twin.layer_norm_vjp(x, None, None, g, eps=0.1)[:1],
        variant=True,
    ),
    Case(
        "rms_norm",
        fnnet.rms_norm,
        _rms_norm,
        shapes=[(8, 6), (6,)],
        batch=[0, None],
        layouts=[(P("d"), P()), (P("d", "m"), P("m"))],
        big=[(512, 256), (256,)],
        terms=256,
        twin=twin.rms_norm_vjp,
        poisoned=[0],
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
