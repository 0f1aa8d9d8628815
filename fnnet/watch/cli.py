"""`fnnet watch`: run a program, and report on every hand-written rule that it met."""

from __future__ import annotations

import argparse
import importlib.util
import json
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from fnnet._terminal import Parser, file_fault, for_people, write
from fnnet.check.verify import LEVELS
from fnnet.watch.watching import Rules, watch


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and print the report.

    Args:
        argv: the words after `fnnet watch`; those of the process by default.

    Returns:
        1 if a rule is wrong; else the program's own exit code (1 after an exception, whose
        traceback is printed), so 0 if all is well; 2 for words that make no sense.

    Raises:
        SystemExit: with code 2 if the words are not understood, with 0 after `--help`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(words)
    if (options.m is None) == (not options.program):
        parser.error("name a program: fnnet watch SCRIPT.py ARGS, or fnnet watch -m MODULE ARGS")
    if options.json is not None and (fault := file_fault(options.json)):
        parser.error(f"--json {fault}")
    if options.m is None and not Path(options.program[0]).is_file():
        parser.error(f"there is no file {options.program[0]}")
    if options.m is not None and not _is_module(options.m):
        parser.error(f"there is no module {options.m}")
    if options.seconds <= 0:
        parser.error(f"--seconds must be positive; got {options.seconds:g}")
    terms = {"level": options.level, "seconds": options.seconds}
    with watch(**terms, select=options.select or (), ignore=options.ignore or ()) as rules:
        code = _run(options)
    return _told(rules, options.json) or code


def _is_module(name: str) -> bool:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # of a package that there is not; a relative name
        return False
    finally:
        sys.path.remove(here)


def _run(options: argparse.Namespace) -> int:
    """The program's exit code."""
    argv, path = sys.argv, list(sys.path)
    try:
        if options.m is not None:
            sys.argv = [options.m, *options.program]
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(options.m, run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(options.program)
            sys.path.insert(0, str(Path(options.program[0]).resolve().parent))
            runpy.run_path(options.program[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.argv, sys.path[:] = argv, path
    return 0


def _told(rules: Rules, file: str | None) -> int:
    """Print the report, and write it; 1 if a rule is wrong."""
    print(f"\n{rules.report()}", file=for_people(file))
    if file is not None:
        write(file, json.dumps(rules.to_dict(), indent=1))
    return int(bool(rules.wrong))


def _parser() -> Parser:
    parser = Parser("watch", "Run a program, and check every hand-written gradient that it meets.")
    parser.add_argument("-m", metavar="MODULE", help="run this module, as python -m does")
    parser.add_argument(
        "--level",
        choices=tuple(LEVELS),
        default="quick",
        help="which questions are asked of each rule: quick asks those about the gradient itself",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="how long the check of one rule may take (default: 60)",
    )
    parser.add_argument(
        "--select",
        action="append",
        metavar="PATTERN",
        help="record those rules alone whose name, or file and line, has this in it",
    )
    parser.add_argument("--ignore", action="append", metavar="PATTERN", help="leave these out")
    parser.add_argument(
        "--json", metavar="FILE", help="write the verdicts to FILE; for - to standard output"
    )
    parser.add_argument(
        "program", nargs=argparse.REMAINDER, metavar="SCRIPT ARGS", help="the program and its words"
    )
    return parser
