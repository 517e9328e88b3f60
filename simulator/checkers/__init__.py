"""The invariants, each checked at every turn of every correct replica."""
