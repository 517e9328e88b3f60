"""What a connection to a member begins with, apart from what makes certificates."""

import ssl

import msgspec


class DiallingTls(msgspec.Struct, frozen=True):
    """For a connection to one member: its context, and the name that its certificate must have.

    digest: of the leaf that this end shows.
    """

    context: ssl.SSLContext
    host: str
    digest: bytes
