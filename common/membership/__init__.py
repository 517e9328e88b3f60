"""How operators who do not trust each other make a cluster: entries, assembly, fingerprint."""
