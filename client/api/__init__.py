"""The gateway over HTTP for programs."""
