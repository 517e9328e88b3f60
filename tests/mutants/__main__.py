"""The command line: break the source, one mutant at a time, and print who notices it.

    python -m tests.mutants [--only TEXT] [--processes 2]

Exit code 1 if a mutant survived, or if a seed or a test that should notice one fails without it.
"""

import argparse
import sys
from collections.abc import Sequence

from tests.mutants.mutants import MUTANTS
from tests.mutants.mutation_runner import failing_without, is_unrecorded, run_mutants


def main(arguments: Sequence[str]) -> int:
    """Try the chosen mutants; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description="break the source on purpose; see who notices"
    )
    parser.add_argument("--only", default="", help="try only mutants whose name has this text")
    parser.add_argument("--first", type=int, default=1, help="begin a search at this seed")
    parser.add_argument("--seeds", type=int, default=120, help="seeds tried per mutant")
    parser.add_argument("--processes", type=int, default=1, help="mutants tried at a time")
    parsed = parser.parse_args(arguments)
    chosen = [mutant for mutant in MUTANTS if parsed.only in mutant.name]
    seeds = range(parsed.first, parsed.first + parsed.seeds)
    if failing := failing_without(chosen):
        print("without any mutant:", *failing, sep="\n  ")
        return 1
    survivors = 0
    unrecorded = []
    for mutant, killer in run_mutants(chosen, seeds, parsed.processes):
        is_expected = killer is not None or mutant.equivalent
        survivors += not is_expected
        told = killer or (f"equivalent: {mutant.equivalent}" if mutant.equivalent else "SURVIVED")
        print(f"{mutant.name}: {told}", flush=True)
        if killer is not None and is_unrecorded(mutant, killer):
            unrecorded.append(mutant.name)
    if unrecorded:
        print("found by a search, so record the seeds in Mutant.seeds:", *unrecorded, sep="\n  ")
    print(f"{len(chosen)} mutants, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
