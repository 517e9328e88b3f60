"""Adapters that both shells need: configuration, keys, links, logs."""
