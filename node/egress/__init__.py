"""Connections out of a build to the hosts that it names: whether, whereto, and how much."""
