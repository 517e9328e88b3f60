"""Builds in Docker containers: the engine, images, and the limits around every step."""
