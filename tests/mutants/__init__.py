"""Faults that are put into the source on purpose, and who notices each: the tests of the tests."""
