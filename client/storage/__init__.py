"""The gateway's SQLite file: accepted requests, archived builds, and how long they are kept."""
