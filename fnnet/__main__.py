"""`python -m fnnet COMMAND ...`: one module for each command, imported only when asked for."""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """Where a command's `main(argv) -> int` is, and what it does in a few words."""

    module: str
    summary: str


COMMANDS = {
    "check": Command("fnnet.check.cli", "check every op's gradient on this device"),
    "bench": Command("fnnet.measure.bench", "measure gradients by hand beside autodiff's, here"),
    "ladder": Command("fnnet.net.ladder", "time the matrix product written five ways"),
    "prove": Command("fnnet.proof.symbolic", "prove the hand-derived backward rules with SymPy"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, on the words after it.

    Args:
        argv: the words after `python -m fnnet`; those of the process by default.

    Returns:
        the command's exit code, or 2 if there is no such command.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["-h"], ["--help"]):
        print(_usage())
        return 0
    if not words:
        print(_usage(), file=sys.stderr)
        return 2
    name, *rest = words
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"fnnet: no command {name!r}; there are: {known}", file=sys.stderr)
        return 2
    return int(import_module(COMMANDS[name].module).main(rest))


def _usage() -> str:
    lines = ["usage: python -m fnnet COMMAND [-h] ...", "", "commands:"]
    lines += [f"  {name:<8}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
