"""What is replicated: open builds, ballots, verdicts, the ledger. Pure and deterministic.

Nothing here runs a build: `application` holds open builds, and the shell (`node`) computes from
them what its replica still owes.
"""
