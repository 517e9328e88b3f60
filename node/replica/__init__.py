"""One replica at work: the loop around the protocol, and what it fetches to keep up."""
