"""Where builds run: the port that every sandbox has, and the sandbox of plain processes."""
