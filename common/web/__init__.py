"""HTTP with limits: servers that many may reach, and answers from machines that nobody trusts."""
