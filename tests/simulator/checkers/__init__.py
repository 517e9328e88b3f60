"""Tests of simulator/checkers."""
