"""Practical Byzantine Fault Tolerance (Castro and Liskov, OSDI'99), sans IO.

Nothing in this package reads a clock, draws a random number, or touches a socket or a file:
time is an argument, signatures are functions that are passed in, and what must be saved or sent
is returned (`ports.Output`). docs/PROTOCOL.md explains the protocol as it is built here.
"""
