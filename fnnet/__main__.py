"""`python -m fnnet COMMAND ...`: one module for each command, imported only when asked for."""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

import jax

import fnnet
from fnnet._terminal import INTERRUPTED, run


class Command(NamedTuple):
    """Where a command's `main(argv) -> int` is, and what it does in a few words."""

    module: str
    summary: str


COMMANDS = {
    "check": Command("fnnet.check.cli", "check every op's gradient on this device"),
    "bench": Command("fnnet.measure.bench", "measure gradients by hand beside autodiff's, here"),
    "watch": Command("fnnet.watch.cli", "run a program and check every rule that it meets"),
    "ladder": Command("fnnet.net.ladder", "time the matrix product written five ways"),
    "prove": Command("fnnet.proof.cli", "prove the hand-derived backward rules with SymPy"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, on the words after it.

    Args:
        argv: the words after `python -m fnnet`; those of the process by default.

    Returns:
        the command's exit code; 2 if there is no such command, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words and words[0] in COMMANDS else ""
    return run(f"fnnet {name}".strip(), lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    if words[:1] in (["-h"], ["--help"]):
        print(_usage())
        return 0
    if words[:1] in (["-V"], ["--version"]):
        python = sys.version.split()[0]
        print(f"fnnet {fnnet.__version__} (JAX {jax.__version__}, Python {python})")
        return 0
    if not words:
        print(_usage(), file=sys.stderr)
        return 2
    name, *rest = words
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"; did you mean {near[0]}? There are" if near else "; there are"
        print(f"fnnet: no command {name!r}{meant}: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        return int(import_module(COMMANDS[name].module).main(rest))
    except (RuntimeError, AssertionError):
        if not (fault := _device_fault()):
            raise
        print(f"fnnet {name}: JAX finds no device: {fault}", file=sys.stderr)
        return 2


def _device_fault() -> str:
    """Why JAX cannot compute, or nothing."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        return str(error).partition("\n")[0] or f"JAX_PLATFORMS is {platforms!r}"
    return ""


def _usage() -> str:
    lines = ["usage: python -m fnnet COMMAND [-h] ...", "", "commands:"]
    lines += [f"  {name:<8}{command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "COMMAND --help lists a command's flags; --version, in its place, is fnnet's own"]
    return "\n".join(lines)


if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED:  # at once: threads that still compile may crash while Python ends
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
