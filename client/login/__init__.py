"""People: who they are, by whose word, and what they may do."""
