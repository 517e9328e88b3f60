"""Tests of node/egress."""
