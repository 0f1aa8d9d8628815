"""Manual against automatic gradients of a whole net, leaf by leaf."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from outcomes import Failure
from training import PRECISIONS, Loss, Params, cast, leaf_name

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
        bound: what the dtype's rounding can do, as a share of `scale`.
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
        worst = float(np.max([self.by_rules, self.by_hand]))  # NaN, if one of them is
        if worst == 0:
            return 0.0
        return worst / self.scale if self.scale else math.inf

    @property
    def ok(self) -> bool:
        """Whether rounding explains the difference; NaN it does not explain."""
        return self.relative <= self.bound


def compare(
    loss: Loss,
    manual: ManualPass,
    params: Params,
    x: np.ndarray,
    y: np.ndarray,
    *,
    bf16: bool = False,
) -> list[Row]:
    """Compare three gradients of `loss`, in float32 and in float64.

    The automatic one is ``jax.grad(fnnet.plain(loss))``: the same net without hand-derived rules.

    Args:
        loss: ``(params, x, y) -> scalar``, made of ops with hand-derived rules.
        manual: ``(params, x, y) -> (loss, gradients)``, the backward pass written out.
        params: the parameters.
        x: images, (images, features); the first `IMAGES` are used.
        y: targets, (images, classes).
        bf16: compare in bfloat16 as well, with the automatic gradient in float32 of the same
            numbers, rounded to bfloat16: what the rules' own rounding does.

    Returns:
        The loss and each leaf of `params`, in bfloat16 if asked for, in float32, in float64. The
        configuration of JAX is as before.
    """
    rows = _rows(loss, manual, params, x, y, jnp.bfloat16) if bf16 else []
    rows += _rows(loss, manual, params, x, y, np.float32)
    with jax.enable_x64(True), jax.default_device(_device_with_float64()):
        return rows + _rows(loss, manual, params, x, y, np.float64)


def _rows(loss: Loss, manual: ManualPass, params: Params, x: Any, y: Any, dtype: Any) -> list[Row]:
    narrow = dtype == jnp.bfloat16
    params, x, y = cast((params, x[:IMAGES], y[:IMAGES]), dtype)
    wide = cast((params, x, y), jnp.float32) if narrow else (params, x, y)
    # an accelerator's usual products keep 3 or 4 digits, too few to tell a wrong rule from rounding
    with jax.default_matmul_precision("highest"):
        want = jax.jit(jax.value_and_grad(fnnet.plain(loss)))(*wide)
        rules = jax.jit(jax.value_and_grad(loss))(params, x, y)
        hand = jax.jit(manual)(params, x, y)
    layers = len(jax.tree.leaves(params)) // 2
    longest = max(len(x), *(n for leaf in jax.tree.leaves(params) for n in leaf.shape))
    # An entry has passed two sums for each layer, forward and backward. Summing n terms in another
    # order moves the result by about sqrt(n) roundings; 4 is for the entries in the tail.
    # The ops sum bfloat16 in float32, which leaves the rounding of what goes in and comes out.
    terms = 1 if narrow else longest
    bound = 4 * 2 * layers * math.sqrt(terms) * float(jnp.finfo(dtype).eps)
    named = [("loss", want[0], rules[0], hand[0])]
    for (path, leaf), a, b in zip(
        jax.tree.leaves_with_path(want[1]),
        jax.tree.leaves(rules[1]),
        jax.tree.leaves(hand[1]),
        strict=True,
    ):
        named.append((leaf_name(path), leaf, a, b))
    return [
        Row(
            leaf=name,
            shape=want.shape,
            dtype=jnp.dtype(dtype).name,
            scale=float(np.max(np.abs(want), initial=0)),
            by_rules=_difference(rules, want),
            by_hand=_difference(hand, want),
            bound=bound,
        )
        for name, want, rules, hand in named
    ]


def _difference(a: Any, b: Any) -> float:
    with np.errstate(invalid="ignore"):  # inf - inf: NaN, which is no agreement
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.max(np.abs(a - b), initial=0))


def _device_with_float64() -> jax.Device:
    """The CPU where JAX has one beside the accelerator, since TPUs have no float64 products."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def check(rows: list[Row]) -> None:
    """Raise a Failure if a gradient is further from the automatic one than rounding explains."""
    for row in rows:
        if not math.isfinite(row.scale):
            raise Failure(
                f"before any training, the scale of {row.leaf} is {row.scale} in {row.dtype}: "
                "an --init with smaller weights may help"
            )
    wrong = [row for row in rows if not row.ok]
    if wrong:
        worst = max(wrong, key=lambda row: math.inf if math.isnan(row.relative) else row.relative)
        raise Failure(
            f"manual and automatic gradients disagree in {len(wrong)} of {len(rows)} rows; worst: "
            f"{worst.leaf}, {worst.dtype}, off by {worst.relative:.1e} of its scale, where "
            f"rounding explains {worst.bound:.1e}. Nothing was trained"
        )


def compare_losses(
    loss: Loss, params: Params, x: Any, y: Any, *, precision: str = "float32"
) -> list[str]:
    """Compare the gradients by hand of any loss with the automatic ones.

    In bfloat16 they are compared with automatic ones in float32 of the same, rounded numbers.

    Returns:
        For each precision, float32 first, a line for people.

    Raises:
        Failure: they differ by more than rounding explains.
    """
    lines = []
    for name in dict.fromkeys(["float32", precision]):
        dtype, bound = PRECISIONS[name], LOSS_BOUNDS[name]
        rounded = cast((params, x, y), dtype)
        by_hand = jax.jit(jax.grad(loss))(*rounded)
        automatic = jax.jit(jax.grad(fnnet.plain(loss)))(*cast(rounded, jnp.float32))

        def difference(a: Any, b: Any) -> float:
            return _difference(a, b) / float(jnp.abs(b).max())

        differences = jax.tree.leaves_with_path(jax.tree.map(difference, by_hand, automatic))
        path, worst = max(differences, key=lambda pair: math.inf if pair[1] != pair[1] else pair[1])
        lines.append(
            f"by hand in {name} and by jax.grad(fnnet.plain(loss)) differ by {worst:.1e} of a "
            f"leaf's scale at most, in {leaf_name(path)}; bound {bound:.0e}"
        )
        if not worst < bound:
            raise Failure(
                f"manual and automatic gradients disagree in {leaf_name(path)}, in {name}: by "
                f"{worst:.1e} of its scale, where rounding explains {bound:.0e}. Nothing was "
                "trained"
            )
    return lines


# of a net of several layers; the deeper, the more roundings
LOSS_BOUNDS = {"float32": 1e-3, "bf16": 0.1}

TITLE = """\
Gradients of the first mini-batch, beside the automatic ones of
jax.grad(fnnet.plain(loss)): the largest difference in the loss and in any
leaf, as a share of the leaf's largest entry.
  by the rules  jax.grad(loss), through the hand-derived rules: these train
  by hand       the backward pass written out, without jax.grad
  bound         what the dtype's rounding explains"""

HEAD = ("dtype", "by the rules", "by hand", "bound", "")


def table(rows: list[Row]) -> str:
    """A line for each dtype: the largest differences of all its rows."""
    cells = [HEAD]
    for dtype in dict.fromkeys(row.dtype for row in rows):
        some = [row for row in rows if row.dtype == dtype]
        wrong = [row.leaf for row in some if not row.ok]
        cells.append(
            (
                dtype,
                _share([(row.by_rules, row.scale) for row in some]),
                _share([(row.by_hand, row.scale) for row in some]),
                f"{max(row.bound for row in some):.1e}",
                f"WRONG: {', '.join(wrong)}" if wrong else "ok",
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _share(pairs: list[tuple[float, float]]) -> str:
    """The largest difference as a share of its scale, in words where there is none at all."""
    shares = [d / scale if scale else math.inf for d, scale in pairs if d != 0]
    if not shares:
        return "equal in every digit"
    return f"{math.nan if any(map(math.isnan, shares)) else max(shares):.1e}"
