"""Tests of driver/, which node and simulator share."""
