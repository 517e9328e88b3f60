"""The gateway: webhooks in, verdicts out, and the command line for people.

`webhook` reads what arrives, `outbox` keeps it until the network has answered, `gateway` asks
the replicas, `archive` keeps what they said, `api` and `pages` show it.
"""
