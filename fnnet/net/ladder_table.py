"""How long each rung of the matmul ladder takes on this machine.

One call warms up (it compiles), then calls that each wait for their result are timed until there
are 30 or the budget is spent, and the median counts. The three rungs that loop over the rows of a
cost the same for every row: where the whole product would exceed the budget, some rows are timed
and the time is scaled up. Where a single row would exceed it too, the rungs that loop over columns
as well are left out. The table says so.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fnnet.net.rungs import RUNGS, matmul_operator

_MOST_RUNS = 30
_BY_ROW = ("matmul_loops", "matmul_rowcol", "matmul_broadcast")  # cost goes with the rows of a
_BY_ELEMENT = ("matmul_loops", "matmul_rowcol")  # and with the columns of b


@dataclass(frozen=True)
class LadderRow:
    """The time of one rung in one form.

    Attributes:
        rung: the function's name, or "numpy @".
        form: "plain" (the function as written), "jit" or "vmap" (both compiled).
        seconds: the median time of one product; None if it was left out.
        speedup: the first rung's time over this one's; None if either was left out.
        gflops: 10⁹ floating-point operations a second, of which a product takes 2·m·k·n.
        runs: how many timed calls the median is of.
        note: what is unusual about the figure, or empty.
    """

    rung: str
    form: str
    seconds: float | None
    speedup: float | None
    gflops: float | None
    runs: int
    note: str


@dataclass(frozen=True)
class LadderTable:
    """The times of all rungs at one size; its `str` is a table for people.

    Attributes:
        m: rows of a.
        k: columns of a, rows of b.
        n: columns of b.
        dtype: the name of the product's dtype.
        device: the device JAX ran on, in words.
        rows: one for each rung and form, the first rung first and NumPy last.
    """

    m: int
    k: int
    n: int
    dtype: str
    device: str
    rows: tuple[LadderRow, ...]

    @property
    def title(self) -> str:
        """The product and the device, in one line."""
        return f"({self.m}, {self.k}) @ ({self.k}, {self.n}), {self.dtype}, on {self.device}"

    def to_dict(self) -> dict[str, Any]:
        """The table as plain dicts, tuples, numbers and text, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"{'rung':<18}{'form':<7}{'time':>9}{'speed-up':>12}{'GFLOP/s':>10}{'runs':>6}"
        lines = [self.title, head]
        for row in self.rows:
            lines.append(
                f"{row.rung:<18}{row.form:<7}{duration(row.seconds):>9}"
                f"{rounded(row.speedup, 'x'):>12}{rounded(row.gflops):>10}"
                f"{row.runs:>6}"
            )
            if row.note:  # on a line of its own: none is wider than 80 columns
                lines.append(f"{'':<18}({row.note})")
        return "\n".join(lines)


def time_ladder(
    a: ArrayLike, b: ArrayLike, *, budget_s: float = 0.5, batch: int = 4
) -> LadderTable:
    """Time every rung on the product of a and b, beside NumPy's `@`.

    The first row, `matmul_loops` as written, is pure Python: lists, numbers and three loops.

    Args:
        a: matrix (m, k).
        b: matrix (k, n).
        budget_s: about how long the timed calls of one rung in one form may take, in seconds.
        batch: how many products the vmap form computes at once; its time is divided by this.

    Returns:
        a LadderTable with the five rungs in three forms each, then NumPy's `@`.

    Raises:
        ValueError: if a and b are no matrices that fit, if one is empty, or if `budget_s` or
            `batch` is not positive.

    >>> table = time_ladder(np.ones((2, 3), "f"), np.ones((3, 4), "f"), budget_s=0.001)
    >>> [row.form for row in table.rows if row.rung == "matmul_einsum"]
    ['plain', 'jit', 'vmap']
    """
    if not budget_s > 0:
        raise ValueError(f"time_ladder: budget_s must be positive, got {budget_s!r}")
    if batch < 1:
        raise ValueError(f"time_ladder: batch must be at least 1, got {batch!r}")
    a, b = jnp.asarray(a), jnp.asarray(b)
    product = jax.eval_shape(matmul_operator, a, b)
    (m, k), n = a.shape, b.shape[1]
    if not m * k * n:
        raise ValueError(f"time_ladder: a {a.shape} @ b {b.shape} is empty: nothing to time")

    many_a, many_b = (jnp.broadcast_to(x, (batch, *x.shape)) for x in (a, b))
    timings = []
    for rung in RUNGS:
        measure = _time_whole
        if rung.name in _BY_ROW:
            measure = partial(_time_by_rows, by_element=rung.name in _BY_ELEMENT)
        timings.append((rung.name, "plain", measure(rung.plain, a, b, budget_s), 1))
        timings.append((rung.name, "jit", measure(rung.jit, a, b, budget_s), 1))
        timings.append((rung.name, "vmap", measure(rung.vmap, many_a, many_b, budget_s), batch))
    device = next(iter(a.devices()))
    numpy = _time_whole(np.matmul, np.asarray(a), np.asarray(b), budget_s)
    if device.platform != "cpu":
        numpy = numpy._replace(note="on the host's CPU")
    timings.append(("numpy @", "plain", numpy, 1))

    first = timings[0][2].seconds
    rows = []
    for name, form, timing, products in timings:
        seconds = speedup = gflops = None
        if timing.seconds is not None:
            seconds = timing.seconds / products
            speedup = None if first is None else first / seconds
            gflops = 2e-9 * m * k * n / seconds
        rows.append(LadderRow(name, form, seconds, speedup, gflops, timing.runs, timing.note))
    where = " ".join(dict.fromkeys((device.platform, device.device_kind)))
    return LadderTable(m, k, n, product.dtype.name, where, tuple(rows))


def duration(seconds: float | None) -> str:
    """A time with three digits and its unit.

    >>> duration(0.0123), duration(4.56e-6), duration(None)
    ('12.3 ms', '4.56 us', '-')
    """
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= 0.9995 * size:
            return f"{rounded(seconds / size)} {unit}"
    return f"{rounded(seconds / 1e-9)} ns"


def rounded(x: float | None, suffix: str = "") -> str:
    """A positive number with three digits, or all of them before the point.

    >>> rounded(12345.6), rounded(1.5, "x"), rounded(0.00123), rounded(None)
    ('12,346', '1.50x', '0.00123', '-')
    """
    if x is None:
        return "-"
    if x >= 99.95:
        return f"{x:,.0f}{suffix}"
    return f"{x:#.3g}{suffix}"


class _Timing(NamedTuple):
    seconds: float | None
    runs: int
    note: str = ""


def _time_whole(f: Callable[[Any, Any], Any], a: Any, b: Any, budget_s: float) -> _Timing:
    times = _times(f, a, b, budget_s)
    return _Timing(statistics.median(times), len(times))


def _time_by_rows(
    f: Callable[[Any, Any], Any], a: Any, b: Any, budget_s: float, *, by_element: bool
) -> _Timing:
    """Time f(a, b), or as many of a's rows as the budget allows; batch axes come first."""
    rows, columns = a.shape[-2], b.shape[-1]
    one_row = a[..., :1, :]
    if by_element:
        row_s = columns * min(_times(f, one_row, b[..., :1], 0, least=3))
        if row_s > budget_s:
            note = f"left out: one row alone would take about {duration(row_s)}"
            return _Timing(None, 0, note)
    row_s = min(_times(f, one_row, b, 0, least=3))
    if row_s * rows <= budget_s:
        return _time_whole(f, a, b, budget_s)
    some = min(rows, max(1, int(budget_s / (3 * row_s))))  # a third: room for about three runs
    times = _times(f, a[..., :some, :], b, budget_s)
    note = f"estimated from {some} of {rows} rows"
    return _Timing(statistics.median(times) * rows / some, len(times), note)


def _times(
    f: Callable[[Any, Any], Any], a: Any, b: Any, budget_s: float, least: int = 1
) -> list[float]:
    """The seconds of each call after the first, until the budget is spent."""
    jax.block_until_ready(f(a, b))
    times: list[float] = []
    while len(times) < least or (len(times) < _MOST_RUNS and sum(times) < budget_s):
        start = time.perf_counter()
        jax.block_until_ready(f(a, b))
        times.append(time.perf_counter() - start)
    return times
