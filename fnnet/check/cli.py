"""`python -m fnnet check`: every op of fnnet, on the device at hand."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax

from fnnet import ops
from fnnet.check.report import Report, number
from fnnet.check.samples import op_names, samples
from fnnet.check.table import table
from fnnet.check.verify import check_vjp

SEED = 20_261_122
_STARTED = "FNNET_CHECK_DEVICES"


def main(argv: Sequence[str] | None = None) -> int:
    """Check ops and print a table.

    Args:
        argv: the words after `python -m fnnet check`; those of the process by default.

    Returns:
        0 if nothing is wrong, 1 if anything is, 2 for words that make no sense.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parser().parse_args(words)
    except SystemExit as e:
        return 2 if e.code else 0
    if options.devices is not None and options.devices < 1:
        print("fnnet check: --devices must be at least 1", file=sys.stderr)
        return 2
    if options.devices and jax.device_count() < options.devices:
        return _anew(words, options.devices)
    if options.score:
        from fnnet.check import score

        return score.main(options.json, options.only)
    unknown = sorted(set(options.op or ()) - set(op_names()))
    if unknown:
        print(
            f"fnnet check: no op {', '.join(unknown)}; there are: {', '.join(op_names())}",
            file=sys.stderr,
        )
        return 2
    return _check(options.op or op_names(), options.json, options.verbose)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fnnet check", description="Is each op's gradient right, on this device?"
    )
    parser.add_argument(
        "--op", action="append", metavar="NAME", help="this op alone; may be repeated"
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the reports to FILE, - for the output"
    )
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="with N virtual CPU devices, for the sharded question",
    )
    parser.add_argument("--verbose", action="store_true", help="print each report whole")
    parser.add_argument(
        "--score", action="store_true", help="test the tester, on the planted bugs of a checkout"
    )
    parser.add_argument("--only", metavar="TEXT", help="with --score: the rows whose name has TEXT")
    return parser


def _anew(words: Sequence[str], devices: int) -> int:
    """Start again with more devices: JAX counts them once, when it starts."""
    if os.environ.get(_STARTED):
        print(
            f"fnnet check: this platform has {jax.device_count()} devices and gives no {devices}",
            file=sys.stderr,
        )
        return 2
    flag = f"--xla_force_host_platform_device_count={devices}"
    kept = [
        f
        for f in os.environ.get("XLA_FLAGS", "").split()
        if not f.startswith("--xla_force_host_platform_device_count")
    ]
    environment = {
        **os.environ,
        "XLA_FLAGS": " ".join([*kept, flag]),
        "JAX_PLATFORMS": "cpu",
        _STARTED: str(devices),
    }
    run = [sys.executable, "-m", "fnnet", "check", *words]
    return subprocess.run(run, env=environment, check=False).returncode


def _check(names: Sequence[str], json_file: str | None, verbose: bool) -> int:
    device = jax.devices()[0]
    human = sys.stderr if json_file == "-" else sys.stdout
    print(f"JAX {jax.__version__}, {jax.device_count()} x {device.device_kind}", file=human)
    rows, reports = [], []
    for name in names:
        for report in _reports(name):
            reports.append(report)
            rows.append(_row(report))
            if verbose or report.verdict == "wrong":
                print("", report, "", sep="\n", file=human)
    head = ("op", "questions", "worst error", "bytes kept, hand/auto", "verdict")
    print(*table(head, rows), sep="\n", file=human)
    if any(f.check == "sharded" and f.verdict == "skipped" for r in reports for f in r.findings):
        print("\nOne device: the sharded question was skipped; --devices 8 asks it.", file=human)
    if json_file:
        _write(json_file, [r.to_dict() for r in reports])
    return int(any(r.verdict == "wrong" for r in reports))


def _reports(name: str) -> list[Report]:
    key = jax.random.key(SEED)
    f = getattr(ops, name)
    return [check_vjp(f, args, key=key) for args in samples(name, key)]


def _row(report: Report) -> tuple[str, ...]:
    asked = {f.check for f in report.findings if f.verdict != "skipped"}
    failed = {f.check for f in report.wrong}
    # relative to its bound, as arguments differ in scale
    errors = [f.error / f.bound for f in report.findings if f.error and f.bound]
    hand, auto = report.residual_bytes
    worst = f"{number(max(errors))} of its bound" if errors else "0"
    return (
        report.name,
        f"{len(asked) - len(failed)} of {len(asked)}",
        worst,
        f"{'?' if hand is None else hand}/{'?' if auto is None else auto}",
        report.verdict,
    )


def _write(path: str, content: Any) -> None:
    text = json.dumps(content, indent=1)
    if path == "-":
        print(text)
        return
    with open(path, "w") as file:
        file.write(text + "\n")
