"""Tests of client/gateway."""
