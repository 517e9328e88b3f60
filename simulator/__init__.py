"""A deterministic world: the real protocol code in virtual time, under faults, with checkers.

The rule: everything that happens follows from the seed. Random numbers come from named streams
(`chance`), time from one heap (`scheduler`); nothing here reads a clock, hashes an object by its
address, or goes through a set in its own order. docs/SIMULATION.md says how to run it.
"""
