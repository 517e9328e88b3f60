"""Tests of node/builds."""
