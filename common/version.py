"""The version of this software, for --version, statuses and the evidence of findings. Pure."""

VERSION = "0.1.0"
