"""Tests of node/sandboxes."""
