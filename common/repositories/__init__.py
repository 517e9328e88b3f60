"""Repositories as operators list them, with their credentials, and what git is told about them."""
