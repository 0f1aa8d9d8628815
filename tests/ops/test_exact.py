"""No less exact than others: large offsets, scales of 10^±18, saturated inputs, 16 and 32 bits.

Each op is compared with its peers (jax.nn, optax; PyTorch where it is installed) at one batch whose
samples are the situations, so that a dtype costs one compilation. Exact is the NumPy twin in
extended precision, given the same rounded inputs. An error is the greatest of a sample (of a leaf
that has no samples: of the leaf), relative to the greatest number there, in units of rounding of
the dtype. It may be

- at most `factor` times the best peer's, or `FLOOR` units, where the peer has luck;
- and at most `within` units, whatever the peers do, where the row says so: there fnnet keeps the
  digits that peers lose.

A new op is a new row.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnnet
from fnnet.proof import reference as twin

DTYPES = ["float32", "bfloat16", "float16"]
FACTOR = 4
FLOOR = 4
CLASSES = 16


class Row(NamedTuple):
    """One op, called in one way.

    Attributes:
        name: of the row.
        op: a function of the drawn arrays.
        value, vjp: of the twin, likewise; `vjp` takes the cotangent as its last argument and gives
            one for each array.
        draw: from a generator and the greatest number of the dtype, the arrays.
        peers: by name, functions as `op`.
        torch: the same as a function of the module `torch` that returns such a function.
        within: units of rounding the error may have, whatever the peers' is; None for any.
        factor: how many times the best peer's error may be had.
        alone: whether the samples, along the first axis, are compared one by one.
    """

    name: str
    op: Callable[..., Any]
    value: Callable[..., Any]
    vjp: Callable[..., Any]
    draw: Callable[[np.random.Generator, float], list[Any]]
    peers: Mapping[str, Callable[..., Any]]
    torch: Callable[[Any], Callable[..., Any]] | None = None
    within: float | None = None
    factor: float = FACTOR
    alone: bool = True


def situations(rng: np.random.Generator, most: float, n: int = CLASSES) -> Any:
    """Samples of n numbers: offsets of 10^0 to 10^6, scales of 10^±18, one far above the rest."""
    rows = [rng.normal(size=n)]
    rows += [rng.normal(size=n) + min(10.0**k, most / 8) for k in range(7) for _ in range(4)]
    rows += [rng.normal(size=n) * min(10.0**k, most / 8) for k in (-18, -6, 1, 2, 4, 18)]
    for gap in (5, 10, 20, 30):  # saturated, at the first, a middle and the last place, and a tie
        for place in (0, n // 2, n - 1):
            row = rng.normal(size=n)
            row[place] += gap
            rows.append(row)
    rows.append(np.where(np.arange(n) < 2, 20.0, rng.normal(size=n)))
    return np.stack(rows)


def _logits(rng: np.random.Generator, most: float) -> list[Any]:
    return [situations(rng, most)]


def _top(z: Any) -> Any:
    """Labels that depend on nothing but the logits: the greatest for most, else the third."""
    at = jnp.argmax(z, -1) if isinstance(z, jax.Array) else np.argmax(z, -1)
    return (at + 2 * (np.arange(len(z)) % 3 == 0)) % z.shape[-1]


def _distributions(rng: np.random.Generator, most: float) -> list[Any]:
    z = situations(rng, most)
    t = rng.dirichlet(np.full(CLASSES, 0.3), len(z))
    return [z, np.where((np.arange(len(z)) % 2 == 0)[:, None], t, np.eye(CLASSES)[_top(z)])]


def _products(rng: np.random.Generator, most: float) -> list[Any]:
    """x and w; a feature of ones carries the same offset of 10^3 to every logit."""
    x = np.concatenate([rng.normal(size=(24, 4)), np.ones((24, 1))], 1)
    w = np.concatenate([rng.normal(size=(4, CLASSES)), np.full((1, CLASSES), 1024.0)])
    return [x, w]


LABELS = np.arange(24) * 5 % CLASSES
EACH = {"reduction": "none"}
SMOOTHED = {"reduction": "none", "smoothing": 0.1}
TOTAL = {"reduction": "sum", "chunk": 7}


def _smoothed(z: Any) -> Any:
    return optax.losses.smooth_labels(jax.nn.one_hot(_top(z), CLASSES, dtype=z.dtype), 0.1)


def _linear(mode: str) -> Row:
    def plain(x: Any, w: Any) -> Any:
        z = (x @ w).astype("float32")  # as one writes it: their cotangent is rounded to w's dtype
        each = optax.losses.softmax_cross_entropy_with_integer_labels(z, LABELS)
        return jnp.sum(each).astype(x.dtype)

    return Row(
        f"linear_cross_entropy, {mode}",
        lambda x, w: fnnet.linear_cross_entropy(x, w, LABELS, mode=mode, **TOTAL),
        lambda x, w: twin.linear_cross_entropy(x, w, LABELS, **TOTAL),
        lambda x, w, g: twin.linear_cross_entropy_vjp(x, w, LABELS, None, g, **TOTAL)[:2],
        _products,
        {"optax": plain},
        alone=False,
    )


def _heads(rng: np.random.Generator, most: float) -> list[Any]:
    """q, k, v: offsets of values and keys, scales, scores up to 10^9, keys nearly alike."""
    shapes = (24, 1, 12), (48, 1, 12), (48, 1, 12)  # so that 1/√12 has all digits
    drawn = []
    for q_by, k_by, k_off, v_by, v_off, apart in (
        *((1, 1, 0, 1, 10.0**k, 1) for k in range(7)),
        *((1, 1, 10.0**k, 1, 0, 1) for k in range(7)),
        *((10.0**k, 10.0**-k, 0, 1, 0, 1) for k in (-18, -6, 0, 6, 18)),
        *((1, 1, 0, 10.0**k, 0, 1) for k in (-18, -6, 6, 18)),
        *((s**0.5, s**0.5, 0, 1, 0, 1) for s in (5, 30, 400, 4e4, 1e9)),
        *((s**0.5, s**0.5, 0, 1, 0, 1 / s) for s in (5, 36, 400, 4e4)),
    ):
        q, k, v = (rng.normal(size=shape) for shape in shapes)
        if apart < 1:
            k[24:] = k[:24] + apart * k[24:]
        drawn.append((q_by * q, k_by * k + k_off, v_by * v + v_off))
    return [np.clip(np.stack(a), -most / 8, most / 8) for a in zip(*drawn, strict=True)]


def _by_jax_nn(q: Any, k: Any, v: Any) -> Any:
    """`jax.nn.dot_product_attention`; of float16, which it cannot compile on a CPU, its text."""
    if q.dtype != "float16":
        return jax.nn.dot_product_attention(q, k, v)
    z = jnp.einsum("nthd,nshd->nhts", q, k, preferred_element_type="float32")
    p = jax.nn.softmax(z / np.float32(np.sqrt(q.shape[-1])), -1)
    return jnp.einsum("nhts,nshe->nthe", p.astype(q.dtype), v)


def _attention(block: int | None) -> Row:
    return Row(
        f"attention, blocks of {block}",
        lambda *args: fnnet.attention(*args, block=block),
        twin.attention,
        twin.attention_vjp,
        _heads,
        {"jax.nn": _by_jax_nn},
        torch=lambda torch: _by_torch(torch.nn.functional.scaled_dot_product_attention),
        factor=10,  # a few queries' D, a number each, decide a sample: luck is large
    )


def _by_torch(f: Callable[..., Any]) -> Callable[..., Any]:
    """Its axes are (..., head, time, feature)."""
    return lambda *args: f(*(a.transpose(1, 2) for a in args)).transpose(1, 2)


def _points(rng: np.random.Generator, most: float) -> list[Any]:
    """p and q: offsets of 10^0 to 10^6, scales of 10^±25, points near each other."""
    drawn = []
    for by, off, apart in (
        *((1, 10.0**k, 1) for k in range(7)),
        *((10.0**k, 0, 1) for k in (-25, -18, -6, 6, 18, 25)),
        *((1, off, 10.0**-k) for k in (1, 2, 3) for off in (0, 1)),
    ):
        p, q = rng.normal(size=(5, 6)), rng.normal(size=(7, 6))
        q[:5] = (1 - apart) * p + apart * q[:5]
        drawn.append((by * p + off, by * q + off))
    return [np.clip(np.stack(a), -most / 8, most / 8) for a in zip(*drawn, strict=True)]


def _distances(p: Any, q: Any) -> Any:
    """As one writes it; 0 where points are the same, and so is its gradient."""
    squares = jnp.square(p[:, :, None, :] - q[:, None, :, :]).sum(-1)
    same = squares == 0
    return jnp.where(same, 0, jnp.sqrt(jnp.where(same, 1, squares)))


# of the softmax family: exp(z - m) has as many units as z - m has digits before the point, and
# what is below the top by more is not seen
TAIL = 64

ROWS = [
    Row(
        "softmax",
        fnnet.softmax,
        twin.softmax,
        twin.softmax_vjp,
        _logits,
        {"jax.nn": jax.nn.softmax},
        torch=lambda torch: lambda z: torch.softmax(z, -1),
        within=TAIL,
    ),
    Row(
        "log_softmax",
        fnnet.log_softmax,
        twin.log_softmax,
        twin.log_softmax_vjp,
        _logits,
        {"jax.nn": jax.nn.log_softmax},
        torch=lambda torch: lambda z: torch.log_softmax(z, -1),
        within=TAIL,
    ),
    Row(
        "cross_entropy of classes",
        lambda z: fnnet.cross_entropy(z, _top(z), **EACH),
        lambda z: twin.cross_entropy(z, _top(z), **EACH),
        lambda z, g: twin.cross_entropy_vjp(z, _top(z), g, **EACH)[:1],
        _logits,
        {"optax": lambda z: optax.losses.softmax_cross_entropy_with_integer_labels(z, _top(z))},
        within=TAIL,
    ),
    Row(
        "cross_entropy of classes, smoothed",
        lambda z: fnnet.cross_entropy(z, _top(z), **SMOOTHED),
        lambda z: twin.cross_entropy(z, _top(z), **SMOOTHED),
        lambda z, g: twin.cross_entropy_vjp(z, _top(z), g, **SMOOTHED)[:1],
        _logits,
        {"optax": lambda z: optax.losses.softmax_cross_entropy(z, _smoothed(z))},
        within=TAIL,
    ),
    Row(
        "cross_entropy of distributions",
        lambda z, t: fnnet.cross_entropy(z, t, **EACH),
        lambda z, t: twin.cross_entropy(z, t, **EACH),
        lambda z, t, g: twin.cross_entropy_vjp(z, t, g, **EACH),
        _distributions,
        {"optax": optax.losses.softmax_cross_entropy},
        torch=lambda torch: lambda z, t: torch.nn.functional.cross_entropy(z, t, reduction="none"),
    ),
    _linear("forward"),
    _linear("recompute"),
    _attention(None),
    _attention(16),
    Row(
        "pairwise_distance",
        fnnet.pairwise_distance,
        twin.pairwise_distance,
        twin.pairwise_distance_vjp,
        _points,
        {"jax.numpy": _distances},
        within=8,
    ),
    Row(
        "kernel_sum",
        lambda p, q: fnnet.kernel_sum(p, q, kernel="laplacian", scale=0.5, block=3),
        lambda p, q: twin.kernel_sum(p, q, kernel="laplacian", scale=0.5),
        lambda p, q, g: twin.kernel_sum_vjp(p, q, None, g, kernel="laplacian", scale=0.5)[:2],
        _points,
        {"jax.numpy": lambda p, q: jnp.exp(-_distances(p, q) / 0.5).sum(-1)},
    ),
]


def passes(f: Callable[..., Any], args: list[Any], g: Any) -> list[Any]:
    """The value and the cotangents, as extended precision."""

    def both(args: list[Any], g: Any) -> Any:
        out, vjp = jax.vjp(f, *args)
        return [out, *vjp(g.astype(out.dtype))]

    return [np.asarray(x.astype("float64"), np.longdouble) for x in jax.jit(both)(args, g)]


def of_torch(f: Callable[..., Any], args: list[Any], g: Any) -> list[Any]:
    import torch

    dtype = getattr(torch, str(args[0].dtype))
    given = [torch.tensor(np.asarray(a, "float64")).to(dtype).requires_grad_() for a in args]
    out = f(*given)
    out.backward(torch.tensor(np.asarray(g, "float64")).to(dtype))
    return [
        x.detach().double().numpy().astype(np.longdouble) for x in (out, *(a.grad for a in given))
    ]


def errors(got: list[Any], exact: list[Any], alone: bool, dtype: str) -> list[Any]:
    """In units of rounding, for every sample of every leaf."""
    unit = float(jnp.finfo(dtype).eps) / 2
    least = float(jnp.finfo(dtype).smallest_normal)  # processors flush what is below to 0
    found = []
    for g, e in zip(got, exact, strict=True):
        axes = tuple(range(1, e.ndim)) if alone else None
        size = np.maximum(np.abs(e).max(axes), least)
        with np.errstate(invalid="ignore"):
            error = np.abs(g - e).max(axes) / size / unit
        found.append(np.where(np.isfinite(error), error, np.inf))
    return found


def no_less_exact_than_the_best_peer(row: Row, dtype: str) -> None:
    """Fail where an error is larger than the row allows."""
    rng = np.random.default_rng(0)
    args = [jnp.asarray(a, dtype) for a in row.draw(rng, float(jnp.finfo(dtype).max))]
    wide = [np.asarray(a.astype("float64"), np.longdouble) for a in args]
    value = row.value(*wide)
    g = jnp.asarray(rng.normal(size=np.shape(value)), dtype)
    exact = [np.asarray(value), *row.vjp(*wide, np.asarray(g.astype("float64"), np.longdouble))]

    with jax.numpy_dtype_promotion("standard"):
        theirs = [passes(f, args, g) for f in row.peers.values()]
    if row.torch and importlib.util.find_spec("torch"):
        import torch

        theirs.append(of_torch(row.torch(torch), args, g))
    best = [
        np.minimum.reduce(leaf)
        for leaf in zip(*(errors(t, exact, row.alone, dtype) for t in theirs), strict=True)
    ]
    ours = errors(passes(row.op, args, g), exact, row.alone, dtype)
    for number, (error, peer) in enumerate(zip(ours, best, strict=True)):
        allowed = np.maximum(row.factor * peer, FLOOR)
        if row.within is not None:
            allowed = np.minimum(allowed, row.within)
        where = np.argmax(error / allowed)
        leaf = "the value" if number == 0 else f"the cotangent of argument {number - 1}"
        assert (error <= allowed).all(), (
            f"{leaf}, sample {where}: {np.ravel(error)[where]:.3g} units of rounding, "
            f"the best peer {np.ravel(peer)[where]:.3g}"
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in ROWS])
def test_no_less_exact_than_the_best_peer(row: Row, dtype: str) -> None:
    no_less_exact_than_the_best_peer(row, dtype)
