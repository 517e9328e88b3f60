"""Scenarios for people: scripted runs, shown step by step."""
