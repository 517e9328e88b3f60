"""The installed package: what is in it, and its three commands."""
