"""One replica's machine: its process, its disk and ledger, and the builds that it runs."""
