"""The version of this software, for --version, statuses and the metadata of build results. Pure."""

VERSION = "0.1.0"
