"""Manual against automatic gradients of a whole net, leaf by leaf."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from training import Loss, Params

import fnnet

# Images compared: enough for every unit to be active, few enough for rounding to stay small.
IMAGES = 256

ManualPass = Callable[[Params, Any, Any], tuple[Any, Params]]


@dataclass(frozen=True)
class Row:
    """One leaf in one dtype. Differences are the largest over the leaf's entries.

    Attributes:
        leaf: the loss, or the path of a parameter.
        shape: its shape.
        dtype: of parameters and images.
        scale: the largest entry of the automatic gradient.
        by_rules: `jax.grad` through the hand-derived rules, less the automatic gradient.
        by_hand: the manual pass without any `jax.grad`, less the automatic gradient.
        bound: what rounding can do, as a share of `scale`.
    """

    leaf: str
    shape: tuple[int, ...]
    dtype: str
    scale: float
    by_rules: float
    by_hand: float
    bound: float

    @property
    def relative(self) -> float:
        """The larger difference as a share of the leaf's scale."""
        worst = max(self.by_rules, self.by_hand)
        if worst == 0:
            return 0.0
        return worst / self.scale if self.scale else math.inf

    @property
    def ok(self) -> bool:
        """Whether rounding explains the difference; NaN it does not explain."""
        return self.relative <= self.bound


def compare(
    loss: Loss, manual: ManualPass, params: Params, x: np.ndarray, y: np.ndarray
) -> list[Row]:
    """Compare three gradients of `loss`, in float32 and in float64.

    The automatic one is ``jax.grad(fnnet.plain(loss))``: the same net without hand-derived rules.

    Args:
        loss: ``(params, x, y) -> scalar``, made of ops with hand-derived rules.
        manual: ``(params, x, y) -> (loss, gradients)``, the backward pass written out.
        params: the parameters.
        x: images, (images, features); the first `IMAGES` are used.
        y: targets, (images, classes).

    Returns:
        The loss and each leaf of `params`, float32 first. The configuration of JAX is as before.
    """
    rows = _rows(loss, manual, params, x, y, np.float32)
    with jax.enable_x64(True), jax.default_device(_device_with_float64()):
        return rows + _rows(loss, manual, params, x, y, np.float64)


def _rows(loss: Loss, manual: ManualPass, params: Params, x: Any, y: Any, dtype: Any) -> list[Row]:
    args = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, dtype)), (params, x, y))
    params, x, y = args[0], args[1][:IMAGES], args[2][:IMAGES]
    # an accelerator's usual products keep 3 or 4 digits, too few to tell a wrong rule from rounding
    with jax.default_matmul_precision("highest"):
        want = jax.jit(jax.value_and_grad(fnnet.plain(loss)))(params, x, y)
        rules = jax.jit(jax.value_and_grad(loss))(params, x, y)
        hand = jax.jit(manual)(params, x, y)
    layers = len(jax.tree.leaves(params)) // 2
    longest = max(len(x), *(n for leaf in jax.tree.leaves(params) for n in leaf.shape))
    # An entry has passed two sums for each layer, forward and backward. Summing n terms in another
    # order moves the result by about sqrt(n) roundings; 4 is for the entries in the tail.
    bound = 4 * 2 * layers * math.sqrt(longest) * float(np.finfo(dtype).eps)
    named = [("loss", want[0], rules[0], hand[0])]
    for (path, leaf), a, b in zip(
        jax.tree.leaves_with_path(want[1]),
        jax.tree.leaves(rules[1]),
        jax.tree.leaves(hand[1]),
        strict=True,
    ):
        named.append((jax.tree_util.keystr(path, simple=True, separator="."), leaf, a, b))
    return [
        Row(
            leaf=name,
            shape=want.shape,
            dtype=want.dtype.name,
            scale=float(np.max(np.abs(want), initial=0)),
            by_rules=_difference(rules, want),
            by_hand=_difference(hand, want),
            bound=bound,
        )
        for name, want, rules, hand in named
    ]


def _difference(a: Any, b: Any) -> float:
    with np.errstate(invalid="ignore"):  # inf - inf: NaN, which is no agreement
        return float(np.max(np.abs(np.asarray(a) - np.asarray(b)), initial=0))


def _device_with_float64() -> jax.Device:
    """The CPU where JAX has one beside the accelerator, since TPUs have no float64 products."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


HEAD = ("leaf", "shape", "dtype", "scale", "rules", "by hand", "relative", "bound", "")


def table(rows: list[Row]) -> str:
    """The rows as text for people."""
    cells = [
        (
            row.leaf,
            "x".join(map(str, row.shape)) or "()",
            row.dtype,
            f"{row.scale:.2e}",
            f"{row.by_rules:.1e}",
            f"{row.by_hand:.1e}",
            f"{row.relative:.1e}",
            f"{row.bound:.1e}",
            "ok" if row.ok else "WRONG",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(HEAD, *cells, strict=True)]
    lines = []
    for line in (HEAD, *cells):
        left = [cell.ljust(w) for cell, w in zip(line[:3], widths, strict=False)]
        right = [cell.rjust(w) for cell, w in zip(line[3:-1], widths[3:], strict=False)]
        lines.append("  ".join([*left, *right, line[-1]]).rstrip())
    return "\n".join(lines)
