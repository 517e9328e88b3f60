"""Which builds this replica runs, in which order, and the ballots that it casts about them."""
