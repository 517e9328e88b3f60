"""One replica's turns, its ballots, and the ledger entries it lacks; node and simulator run it."""
