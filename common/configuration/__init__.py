"""The YAML configuration files as typed values, and the keys and secrets that they name."""
