"""Measurements of the whole product as ratios: each beside what it is compared with, in one run."""
