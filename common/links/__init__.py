"""Authenticated links between members of the network."""
