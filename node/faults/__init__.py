"""How a node misbehaves on purpose, for demonstrations and tests.

Loaded only by a node whose file has `fault_injection`: no other node has code that lies.
"""
