"""What a replica must not lose, on disk: its records, requests, ballots, ledger and proofs."""
