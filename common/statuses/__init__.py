"""Commit statuses: what is said to a forge, in which order, and until it has heard it."""
