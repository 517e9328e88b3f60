"""What the forges send: one module per forge, each from raw headers and body to one event."""
