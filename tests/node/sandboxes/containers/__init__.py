"""Tests of node/sandboxes/containers."""
