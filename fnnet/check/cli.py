"""`python -m fnnet check`: every op of fnnet, on the device at hand."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from fnnet import ops
from fnnet._terminal import Columns, Parser, file_fault, for_people, one_of, write
from fnnet.check.report.report import Report
from fnnet.check.selftest.samples import op_names, samples
from fnnet.check.selftest.twin import NEAR, twin_error
from fnnet.check.verify import LEVELS, check_vjp

SEED = 20_261_122
SCORED_ON = 8  # devices: some planted bugs show on several only
_STARTED = "FNNET_CHECK_DEVICES"

HEAD = ("op", "passed", "error", "bytes kept", "twin", "proof", "verdict")
WIDTHS = (20, 7, 7, 10, 5, 8, 11)
LEGEND = """
passed      questions answered in the rule's favour / asked, at all calls
error       the largest, in terms of the bound it has to keep
bytes kept  by the backward pass: by the rule / by autodiff
twin        the largest relative error against the NumPy twin, in float64
proof       of the twin's rule by SymPy, at the first of its shapes;
            python -m fnnet prove: at all"""


class Checked(NamedTuple):
    """What one call of an op came to.

    Attributes:
        report: the check's.
        twin: the error against the NumPy twin; None without one.
    """

    report: Report
    twin: float | None

    @property
    def differs(self) -> bool:
        """Whether op and twin have different values or gradients."""
        return self.twin is not None and not self.twin <= NEAR

    @property
    def wrong(self) -> bool:
        """Whether check or twin speak against the op; asked strictly, whatever is left open too."""
        return self.differs or not self.report.ok


def main(argv: Sequence[str] | None = None) -> int:
    """Check ops and print a table.

    Args:
        argv: the words after `python -m fnnet check`; those of the process by default.

    Returns:
        0 if nothing is wrong, 1 if anything is, 2 for words that make no sense.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    try:
        options = parser.parse_args(words)
        _together(parser, options)
    except SystemExit as e:
        return 2 if e.code else 0
    devices = options.devices or (SCORED_ON if options.score else None)
    if devices and jax.device_count() < devices and not os.environ.get(_STARTED):
        return _anew(words, devices)
    if options.devices and jax.device_count() < options.devices:
        given = jax.device_count()
        print(f"fnnet check: this platform has {given} devices, not {devices}", file=sys.stderr)
        return 2
    if options.score:
        from fnnet.check.selftest import score

        return score.main(options.json, options.only, options.level)
    names = list(dict.fromkeys(options.op or op_names()))
    asked = {
        "level": options.level,
        "strict": options.strict,
        "surrogate": options.surrogate,
        "tolerance": options.tolerance,
    }
    return _check(names, options.json, options.verbose, asked)


def _parser() -> Parser:
    parser = Parser("check", "Is each op's gradient right, on this device?", op_names())
    parser.add_argument(
        "--op",
        action="append",
        type=one_of("op", op_names()),
        metavar="NAME",
        help="this op alone; may be repeated",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the reports to FILE; for - to standard output, the table to standard error",
    )
    parser.add_argument(
        "--devices",
        type=int,
        metavar="N",
        help="with N virtual CPU devices, for the sharded question",
    )
    parser.add_argument(
        "--level",
        choices=tuple(LEVELS),
        default="full",
        help="which questions are asked: quick asks those about the gradient itself",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail on whatever is left open too: cautions, the undecidable, second order not asked",
    )
    parser.add_argument(
        "--tolerance",
        type=_exactness,
        metavar="R",
        help="how exact the values are, relative to the largest; by default by their dtype",
    )
    parser.add_argument(
        "--surrogate",
        action="store_true",
        help="the rules are, on purpose, not the derivatives of their functions",
    )
    parser.add_argument("--verbose", action="store_true", help="print each report whole")
    parser.add_argument(
        "--score", action="store_true", help="test the tester, on the planted bugs of a checkout"
    )
    parser.add_argument("--only", metavar="TEXT", help="with --score: the rows whose name has TEXT")
    return parser


def _exactness(word: str) -> float:
    """A tolerance: a number from 0 to 1."""
    try:
        number = float(word)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, like 1e-6; got {word}")
    return number


def _together(parser: Parser, options: argparse.Namespace) -> None:
    """Flags looked at together, and the file, before any work; a wrong one ends the program."""
    if options.devices is not None and options.devices < 1:
        parser.error(f"--devices must be at least 1, got {options.devices}")
    if options.only is not None and not options.score:
        parser.error("--only goes with --score; one op alone is --op NAME")
    for flag in ("op", "verbose", "strict", "surrogate", "tolerance"):
        if options.score and getattr(options, flag):
            parser.error(f"--{flag} does not go with --score, which --only narrows down")
    if options.json is not None and (fault := file_fault(options.json)):
        parser.error(f"--json {fault}")


def _anew(words: Sequence[str], devices: int) -> int:
    """Start again with more devices: JAX counts them once, when it starts."""
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
    child = subprocess.Popen(run, env=environment)
    try:
        return child.wait()
    except KeyboardInterrupt:
        # a terminal has sent it to the child as well, which says so and ends; a `kill` has not
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(2)
        child.send_signal(signal.SIGINT)
        return child.wait()


def _check(
    names: Sequence[str], json_file: str | None, verbose: bool, asked: dict[str, Any]
) -> int:
    from fnnet.proof import reference  # here: nothing else of check stands on the proofs

    device = jax.devices()[0]
    human = for_people(json_file)
    print(f"JAX {jax.__version__}, {jax.device_count()} x {device.device_kind}", file=human)
    table = Columns(HEAD, WIDTHS)
    print(table.head, file=human, flush=True)
    reports = []
    key = jax.random.key(SEED)
    for name in names:
        calls = [
            Checked(
                check_vjp(getattr(ops, name), s.args, kwargs=s.options, key=key, **asked),
                twin_error(name, s, reference),
            )
            for s in samples(name, key)
        ]
        proof, proved = _proof(name)
        print(table.row(_row(name, calls, proof)), file=human, flush=True)
        for call in calls:
            if verbose or call.wrong:
                print("", call.report, "", sep="\n", file=human, flush=True)
        reports.append(
            {
                "op": name,
                "ok": proved and not any(call.wrong for call in calls),
                "proof": proof,
                "calls": [{**call.report.to_dict(), "twin": call.twin} for call in calls],
            }
        )
    if jax.device_count() == 1 and asked["level"] == "full":
        print("\nOne device: the sharded question was skipped; --devices 8 asks it.", file=human)
    print(LEGEND, file=human)
    if json_file is not None:
        write(json_file, json.dumps(reports, indent=1))
    return int(not all(r["ok"] for r in reports))


def _row(name: str, calls: Sequence[Checked], proof: str) -> tuple[str, ...]:
    """One line: an op, over all the calls it was checked at."""
    asked = failed = 0
    errors = [0.0]
    for report in (call.report for call in calls):
        failed += len({f.check for f in report.wrong})
        asked += len({f.check for f in report.findings if f.verdict != "skipped"})
        # relative to its bound, as arguments differ in scale
        errors += [f.error / f.bound for f in report.findings if f.error and f.bound]
    kept = [sum(r.residual_bytes[k] or 0 for r in (call.report for call in calls)) for k in (0, 1)]
    twins = [call.twin for call in calls if call.twin is not None]
    return (
        name,
        f"{asked - failed}/{asked}",
        f"{max(errors):.2g}",
        f"{kept[0]}/{kept[1]}",
        f"{max(twins):.0e}" if twins else "none",
        proof.split(",")[0],
        _verdict(calls),
    )


def _verdict(calls: Sequence[Checked]) -> str:
    verdicts = {call.report.verdict for call in calls}
    if "wrong" in verdicts or any(call.differs for call in calls):
        return "wrong"
    if any(call.wrong for call in calls):
        return "left open"
    return "undecidable" if "undecidable" in verdicts else "correct"


def _proof(name: str) -> tuple[str, bool]:
    """What SymPy says of the twin's rule at its first shapes, and whether that is no refutation."""
    try:
        from fnnet.proof import cases, symbolic
    except ImportError:
        return "no SymPy", True
    if name not in cases.CASES:
        return "none", True
    shapes = cases.CASES[name]()
    proof = symbolic.prove(name, cases=shapes[:1])
    return (f"proved, 1 of {len(shapes)}" if proof.exact else "REFUTED"), proof.exact
