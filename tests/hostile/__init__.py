"""Hostile repositories: each ends with the right verdict, leaves nothing, harms no neighbour."""
