"""The version of this software, for --version, statuses and the evidence of findings."""

VERSION = "0.1.0"
