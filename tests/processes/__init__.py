"""Tests with real processes: four nodes, a gateway, and Docker where a test says so."""
