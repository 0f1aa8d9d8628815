"""`watch`: while it is open, every hand-written rule that a program meets is recorded."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import hijax

from fnnet.check.verify import LEVELS, Level
from fnnet.measure.text import in_bytes, table
from fnnet.rules.origin import in_jax
from fnnet.watch.entries import watched
from fnnet.watch.record import Record
from fnnet.watch.rule import Rule, rule_of
from fnnet.watch.seen import see

_HERE = str(Path(__file__).parents[1])
_PENDING = 16  # so many calls of one kind hand values over until the first of them came
_SHORT = {"float": "f", "int": "i", "uint": "u", "complex": "c", "bfloat": "bf"}


class WrongRuleError(AssertionError):
    """A program met a rule that is wrong, or none. Its message is the report."""


class Rules:
    """The hand-written rules that a program met, each once for every way it was called.

    Iterate over it for the `Record`s; they are checked when a verdict is first asked for.

    Attributes:
        jax: how many calls there were of JAX's own rules, by name; these are not checked.
        left_out: the names of rules that `select` and `ignore` leave out.
        faults: what went wrong in recording, a line each; the program itself went on.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        level: Level,
        seconds: float,
        select: Sequence[str],
        ignore: Sequence[str],
    ) -> None:
        self.jax: Counter[str] = Counter()
        self.left_out: set[str] = set()
        self.faults: list[str] = []
        self.during: Callable[[], str] = lambda: ""
        self._records: dict[Any, Record] = {}
        self._pending: Counter[Any] = Counter()
        self._bytes = 0
        self._terms = (max_bytes, level, seconds)
        self._patterns = (select, ignore)
        self._lock = threading.RLock()
        self._open = True

    @property
    def records(self) -> list[Record]:
        """Of the rules that are checked, in the order of their first calls."""
        return list(self._records.values())

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self._records)

    def check(self) -> list[Record]:
        """All records, each with its verdict."""
        _, level, seconds = self._terms
        for record in self.records:
            record.check(level, seconds)
        return self.records

    @property
    def wrong(self) -> list[Record]:
        """Those of rules that are wrong."""
        return [record for record in self.check() if record.verdict == "wrong"]

    def report(self) -> str:
        """A table of the rules with their verdicts, and the report of each that is wrong."""
        records = self.check()
        parts = []
        if records:
            rows = [[r.verdict, r.rule.name, r.called_with, r.words()] for r in records]
            parts.append(table(["verdict", "rule", "called with", ""], rows))
            for record in self.wrong:
                where = f"{record.rule.name}, {record.rule.kind}, {record.rule.where}"
                called = f"first called from {record.called_from}"
                during = f", during {record.during}" if record.during else ""
                parts.append(f"{where}\n{called}{during}\n{record.report}")
        counts = Counter(record.verdict for record in records)
        told = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        parts.append(
            f"rules met: {len(records)} ({told})"
            if records
            else "no hand-written rule was met: nothing was checked"
        )
        if self.jax:
            parts.append(f"and of JAX's own, not checked: {len(self.jax)}")
        if self.left_out:
            parts.append(f"left out: {', '.join(sorted(self.left_out))}")
        parts += [f"not recorded: {fault}" for fault in self.faults]
        return "\n\n".join(parts)

    def assert_right(self) -> None:
        """Raise if a rule is wrong, or if none was met.

        Raises:
            WrongRuleError: an AssertionError whose message is the report.
        """
        if self.wrong or not self._records:
            raise WrongRuleError(self.report())

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, numbers and text, ready for JSON."""
        return {
            "schema": 1,
            "jax": jax.__version__,
            "rules": [record.to_dict() for record in self.check()],
            "rules_of_jax": dict(self.jax),
            "left_out": sorted(self.left_out),
            "faults": list(self.faults),
        }

    def _saw(
        self, f: Any, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        """Record a call; the arguments to go on with."""
        try:
            rule = rule_of(f, kind)
            if not rule.foreign:
                self.jax[rule.name] += 1
                return args
            if not self._takes(rule):
                self.left_out.add(rule.name)
                return args
            return self._recorded(rule, f, args, kwargs)
        except Exception as error:  # whatever it is, the program is to go on
            self.faults.append(f"{kind}: {type(error).__name__}: {error}".splitlines()[0])
            return args

    def _takes(self, rule: Rule) -> bool:
        select, ignore = self._patterns
        names = (rule.name, rule.where)

        def fits(patterns: Sequence[str]) -> bool:
            return any(fnmatch(name, f"*{p}*") for p in patterns for name in names)

        return (not select or fits(select)) and not fits(ignore)

    def _recorded(
        self, rule: Rule, f: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...]:
        leaves, tree = jax.tree.flatten((args, kwargs))
        key = (rule.same, tree, *map(_description, leaves))
        with self._lock:
            record = self._records.get(key)
            if record is None:
                words = ", ".join(w for w in map(_in_words, leaves) if w)
                record = Record(rule, words, _caller(), self.during())
                record._f, record._leaves, record._tree = f, list(leaves), tree
                self._records[key] = record
                record.why = self._obstacle(leaves) or record.why
            record.calls += 1
            self._pending[key] += 1
            if not record.waits or self._pending[key] > _PENDING:
                return args
        traced = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.core.Tracer)]
        here = [i for i, leaf in enumerate(leaves) if _is_array(leaf) and i not in traced]
        for i in here:  # they may be changed or given away before they are looked at
            if not _is_key(leaves[i]):
                record._leaves[i] = np.array(leaves[i])
        if not traced:
            record.told((), ())
            return args

        def receive(*values: Any) -> None:
            with self._lock:
                if self._open:
                    kept = [
                        jax.random.wrap_key_data(v, impl=impl[i]) if i in impl else v
                        for i, v in zip(traced, values, strict=True)
                    ]
                    record.told(traced, kept)

        impl = {i: jax.random.key_impl(leaves[i]) for i in traced if _is_key(leaves[i])}
        data = [jax.random.key_data(leaves[i]) if i in impl else leaves[i] for i in traced]
        for i, out in zip(traced, see(receive, *data), strict=True):
            if i not in impl:
                leaves[i] = out
        new_args, new_kwargs = jax.tree.unflatten(tree, leaves)
        kwargs.update(new_kwargs)
        return tuple(new_args)

    def _obstacle(self, leaves: Sequence[Any]) -> str:
        """Why the values of these arguments are not kept, or nothing; what they take is counted."""
        size = 0
        for leaf in leaves:
            if not _is_array(leaf):
                continue
            aval = jax.typeof(leaf)
            if isinstance(aval, hijax.AbstractRef):
                return "an argument is a mutable reference"
            if not all(isinstance(n, int) for n in aval.shape):
                return "an argument has a symbolic shape"
            size += aval.size * getattr(aval.dtype, "itemsize", 8)
        most, *_ = self._terms
        if self._bytes + size > most:
            left = in_bytes(most - self._bytes)
            return f"its values take {in_bytes(size)}, and of max_bytes {left} were left"
        self._bytes += size
        return ""

    def _close(self) -> None:
        with self._lock:
            self._open = False


@contextmanager
def watch(
    *,
    max_bytes: int | None = None,
    level: Level = "quick",
    seconds: float = 60.0,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Iterator[Rules]:
    """Record every hand-written rule that is called while this is open, and check each once.

    `jax.custom_vjp`, `jax.custom_jvp`, `jax.custom_gradient`, hijax primitives, and what is made of
    them (`fnnet.register`, flax, optax, equinox): under `jit`, in loops and branches, mapped,
    differentiated, rematerialised, on several devices. A rule is recorded with the values that it
    met, which are copied to this process when the compiled program runs: of a batch the first
    example, of all devices what one of them has. Each structure, shapes, dtypes and static options
    count as one call, and are checked by `fnnet.check.check_vjp`.

    JAX's caches are cleared at the beginning, so that functions compiled before are traced again,
    and at the end. Not seen are programs compiled ahead of time (``jit(f).lower(x).compile()``)
    before it was opened, rules that are not written with one of these classes, such as primitives
    of `jax.extend.core`, and values that a program has no need of. JAX's own rules (`jax.nn.relu`)
    are counted, not checked.

    Args:
        max_bytes: how many bytes of arguments to keep; 256 MiB by default. What is more is named.
        level: of the check, "quick" or "full".
        seconds: how long the check of one rule may take.
        select: record those alone whose name, or file and line, has one of these patterns in it.
        ignore: leave these out.

    Yields:
        `Rules`: ``report()``, ``assert_right()``, ``to_dict()``, and an iterable of `Record`s.

    Raises:
        ValueError: for a level that there is not, or numbers that are not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet.watch import watch
        >>> @jax.custom_vjp
        ... def cube(x):
        ...     return x**3
        >>> cube.defvjp(lambda x: (x**3, x), lambda x, g: (2 * x**2 * g,))
        >>> with watch() as rules:
        ...     g = jax.jit(jax.grad(lambda x: jax.vmap(cube)(x).sum()))(jnp.ones(3))
        >>> [(r.rule.name, r.verdict, r.called_with) for r in rules.check()]
        [('cube', 'wrong', 'f32[]')]
    """
    if level not in LEVELS:
        raise ValueError(f"watch: level must be one of {', '.join(LEVELS)}; got {level!r}")
    most = 2**28 if max_bytes is None else max_bytes
    for name, number in (("max_bytes", most), ("seconds", seconds)):
        if not number > 0:
            raise ValueError(f"watch: {name} must be positive; got {number!r}")
    rules = Rules(max_bytes=most, level=level, seconds=seconds, select=select, ignore=ignore)
    try:
        with watched(rules._saw):
            yield rules
    finally:
        rules._close()


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and bool(
        jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )


def _description(leaf: Any) -> Any:
    if _is_array(leaf):
        return (jax.typeof(leaf).shape, str(leaf.dtype))
    try:
        hash(leaf)
    except TypeError:
        return type(leaf)
    return (type(leaf), leaf)


def _in_words(leaf: Any) -> str:
    if not _is_array(leaf):
        return repr(leaf) if isinstance(leaf, (bool, int, float, str)) else type(leaf).__name__
    name = str(leaf.dtype)
    letters = name.rstrip("0123456789")
    short = _SHORT.get(letters, letters) + name[len(letters) :]
    return f"{short}[{','.join(map(str, jax.typeof(leaf).shape))}]"


def _caller() -> str:
    """File and line of the call, in the first file that is neither JAX's nor fnnet's."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not in_jax(file) and not file.startswith(_HERE) and not file.endswith("contextlib.py"):
            path = Path(file)
            cwd = Path.cwd()
            short = path.relative_to(cwd) if path.is_relative_to(cwd) else path
            return f"{short}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
