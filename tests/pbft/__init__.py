"""Tests of pbft/."""
