"""Caches of builds, on one operator's machine: what is kept, for whom, and in which form."""
