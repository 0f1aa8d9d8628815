"""`python -m fnnet prove`: the proofs of every op's rule, one row as each is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from fnnet._terminal import Columns, Parser, one_of
from fnnet.proof import reference

HEAD = ("op", "shapes", "regions", "cotangents", "tangents", "seconds", "verdict")


def main(argv: Sequence[str] | None = None) -> int:
    """Prove ops, and print a table.

    Args:
        argv: the words after `python -m fnnet prove`; those of the process by default.

    Returns:
        0 if all is exact, 1 if anything is not, 2 without SymPy.

    Raises:
        SystemExit: with code 2 if the words are not understood, with 0 after `--help`.
    """
    parser = Parser(
        "prove", "Prove the hand-derived rules, backward and forward, exactly.", reference.OPS
    )
    parser.add_argument(
        "--op",
        action="append",
        type=one_of("op", reference.OPS),
        metavar="NAME",
        help="this op alone; may be repeated",
    )
    names = parser.parse_args(argv).op or reference.OPS
    try:
        from fnnet.proof.symbolic import prove
    except ImportError as error:
        print(f"fnnet prove: {error}", file=sys.stderr)
        return 2
    failed = []
    table = Columns(HEAD, (20, 6, 7, 10, 8, 7, 10), right=(1, 2, 3, 4, 5))
    print(table.head, flush=True)
    for op in dict.fromkeys(names):
        start = time.perf_counter()
        proof = prove(op)
        seconds = time.perf_counter() - start
        tangents = sum(claim.out.size for claim in proof.tangents)
        counts = [len(proof.shapes), len(proof.claims), proof.entries, tangents or "-"]
        verdict = "exact" if proof.exact else "NOT PROVED"
        print(table.row([op, *map(str, counts), f"{seconds:.1f}", verdict]), flush=True)
        if not proof.exact:
            failed.append(proof)
    for proof in failed:
        print(f"\n{proof}")
    return 1 if failed else 0
