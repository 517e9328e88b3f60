"""Tests of node/replica."""
