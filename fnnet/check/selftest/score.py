"""Test the tester: planted bugs and right rules, judged here and by what others use.

The rows are in `tests/planted` of a checkout: they are no part of the installed package.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from fnnet._terminal import for_people, write
from fnnet.check.case.subject import take_apart
from fnnet.check.report.table import table
from fnnet.check.verify import Level, check_vjp
from fnnet.rules import plain

PLANTED = pathlib.Path(__file__).parents[3] / "tests" / "planted"
DIAGNOSED = 0.9  # of the bugs, at least


def main(json_file: str | None = None, only: str | None = None, level: Level = "full") -> int:
    """Print the score table.

    Args:
        json_file: where each row's verdicts are written.
        only: the rows whose names contain this.
        level: that of `check_vjp`.

    Returns:
        0 if every bug is caught, nine in ten named rightly, and no right rule accused; 1 if
        not; 2 without the rows, or if none is left.
    """
    module = planted()
    if module is None:
        print(
            "fnnet check --score: the planted bugs are in tests/planted of a checkout of fnnet, "
            f"and there is no {PLANTED}. Clone the repository; install it with pip install -e .",
            file=sys.stderr,
        )
        return 2
    rows = [(row, True) for row in module.BUGS] + [(row, False) for row in module.RIGHT]
    rows = [(row, is_bug) for row, is_bug in rows if only is None or only in row.name]
    if not rows:
        print(f"fnnet check: --only {only}: no planted row's name has that in it", file=sys.stderr)
        return 2
    human = for_people(json_file)
    with _compiled_fast():
        results = _scored(rows, human, level)
    print(*summary(results), sep="\n", file=human, flush=True)
    if json_file is not None:
        write(json_file, json.dumps(results, indent=1))
    diagnosed = [r["diagnosed"] for r in results if r["bug"]]
    passed = all(r["fnnet"]["wrong"] == r["bug"] for r in results)
    return int(not passed or sum(diagnosed) < DIAGNOSED * len(diagnosed))


@contextmanager
def _compiled_fast() -> Iterator[None]:
    """Much is compiled and little computed: XLA's optimisations do not pay here."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def _scored(rows: Sequence[tuple[Any, bool]], human: TextIO, level: Level) -> list[dict[str, Any]]:
    results = []
    for i, (row, is_bug) in enumerate(rows):
        if i and i % 50 == 0:
            print(f"{i} of {len(rows)} rows", file=human, flush=True)
        if row.devices > jax.device_count():
            print(
                f"skipped, as it takes {row.devices} devices (--devices 8): {row.name}",
                file=human,
                flush=True,
            )
            continue
        results.append(score(row, is_bug, level=level))
        said = results[-1]
        if said["fnnet"]["wrong"] != is_bug or not said["diagnosed"]:
            print(
                f"{'bug' if is_bug else 'right'}: {row.name}: {said['fnnet']}, wanted {row.codes}",
                file=human,
                flush=True,
            )
    return results


def planted() -> Any:
    """The module of planted rows, or None where there is no checkout."""
    if not PLANTED.exists():
        return None
    spec = importlib.util.spec_from_file_location(
        "fnnet_planted", PLANTED / "__init__.py", submodule_search_locations=[str(PLANTED)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its files look it up
    spec.loader.exec_module(module)
    return module


def score(row: Any, is_bug: bool, others: bool = True, level: Level = "full") -> dict[str, Any]:
    """What each tester says of one row: True for wrong, None where it cannot be asked."""
    f, args, *rest = row.build()
    options = rest[0] if rest else {}
    start = time.perf_counter()
    report = check_vjp(f, args, **options, level=level, stop_early=is_bug)
    seconds = time.perf_counter() - start
    # what is wrong in other dtypes alone is caught where the row is asked strictly
    told = report.wrong or (report.cautions if report.strict else ())
    diagnosis = told[0].diagnosis if told else None
    result = {
        "name": row.name,
        "bug": is_bug,
        "fnnet": {
            "wrong": bool(told),
            "verdict": report.verdict,
            "diagnosis": diagnosis,
            "seconds": round(seconds, 2),
        },
        "diagnosed": not is_bug or diagnosis in row.codes,
    }
    if others:
        for name, tester in OTHERS.items():
            result[name] = _said(tester, f, args, options)
    return result


def _said(tester: Callable[..., bool], f: Any, args: Any, options: Any) -> bool | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return not tester(f, args, options)
        except AssertionError:
            return True
        except Exception as e:
            # the rule's own contract broken is a bug found; a tester that cannot cope says nothing
            return True if "Custom VJP bwd rule" in str(e) else None


def _check_grads(order: int, dtype: Any) -> Callable[..., bool]:
    def tester(f: Any, args: Any, options: Any) -> bool:
        with jax.enable_x64(dtype == "float64"):
            subject = take_apart(f, args, None, None, numbers=False)
            values = [
                jnp.asarray(np.asarray(v), np.result_type(np.asarray(v), dtype))
                if dtype == "float64"
                else v
                for v in subject.values
            ]
            flat = subject.flat(f)
            check_grads(lambda *v: flat(list(v), subject.others)[0], values, order, modes=["rev"])
        return True

    return tester


def _allclose(f: Any, args: Any, options: Any) -> bool:
    """The habit: gradients of the sum, against autodiff's, by `allclose`."""
    subject = take_apart(f, args, None, None, numbers=False)
    truth = options.get("reference") or plain(f)

    def total(g: Callable[..., Any]) -> Any:
        flat = subject.flat(g)
        return jax.grad(lambda v: sum(jnp.sum(x).real for x in flat(v, subject.others)[0]))(
            subject.values
        )

    pairs = zip(total(f), total(truth), strict=True)
    return all(bool(np.allclose(np.asarray(a), np.asarray(b))) for a, b in pairs)


OTHERS: dict[str, Callable[..., bool]] = {
    **{
        f"check_grads, order {order}, {dtype}": _check_grads(order, dtype)
        for order in (1, 2)
        for dtype in ("float32", "float64")
    },
    "allclose of summed gradients": _allclose,
}


def summary(results: Sequence[dict[str, Any]]) -> list[str]:
    """The score table, and what the diagnoses came to."""
    bugs = [r for r in results if r["bug"]]
    rights = [r for r in results if not r["bug"]]
    testers: dict[str, Callable[[dict[str, Any]], bool | None]] = {
        "fnnet check": lambda r: bool(r["fnnet"]["wrong"])
    }
    for name in OTHERS:
        if results and name in results[0]:
            testers[name] = lambda r, name=name: r[name]  # type: ignore[misc]
    rows = []
    for name, says in testers.items():
        caught = sum(says(r) is True for r in bugs)
        accused = sum(says(r) is True for r in rights)
        unable = sum(says(r) is None for r in results)
        rows.append((name, f"{caught} of {len(bugs)}", f"{accused} of {len(rights)}", str(unable)))
    lines = table(("tester", "bugs caught", "right rules accused", "not asked"), rows)
    diagnosed = sum(r["diagnosed"] for r in bugs)
    undecided = sum(r["fnnet"]["verdict"] == "undecidable" for r in rights)
    seconds = [r["fnnet"]["seconds"] for r in (*bugs, *rights)]
    lines += [
        "",
        f"diagnoses right: {diagnosed} of {len(bugs)}; right rules undecided: {undecided}",
        f"seconds a rule: {statistics.median(seconds):.2f} (median), {max(seconds):.1f} at most",
    ]
    return lines
