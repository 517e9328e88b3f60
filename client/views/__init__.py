"""Builds and the ledger as plain values, for the API and the pages."""
