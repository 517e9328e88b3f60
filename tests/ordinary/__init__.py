"""Ordinary projects, built as anybody would have them built."""
