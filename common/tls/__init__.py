"""Mutual TLS 1.3 between the members of a cluster, with no keys trusted but those it pins."""
