"""TLS contexts of one member: for dialling another member, and for listening.

The rules: TLS 1.3 only, a certificate at both ends, and no session is resumed, because that would
skip the check of who is a member. Dialling trusts the one member that is meant. Listening trusts
all members.
"""

import os
import ssl
from collections.abc import Callable, Iterable

from common.tls.certificates import Leaf, PinnedKeys, anchor_of


def listening_context(pinned: PinnedKeys, leaf: Leaf) -> ssl.SSLContext:
    """For connections of any member."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, pinned, pinned.keys, leaf=leaf)
    context.num_tickets = 0
    return context


def dialling_context(pinned: PinnedKeys, peer: str, leaf: Leaf | None) -> ssl.SSLContext:
    """For dialling that member with `server_hostname=host_of(cluster_id, peer)`.

    leaf: None shows no certificate, which every member refuses.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, pinned, (peer,), leaf=leaf)
    context.check_hostname = True
    return context


def renewed_context(newest: Callable[[str | None], ssl.SSLContext]) -> ssl.SSLContext:
    """A context for listening, each of whose connections has the newest one's leaf and anchors.

    newest: called as a connection begins, with the name that it asks for; None: it names none.
    """
    # OpenSSL takes certificate and anchors over from the newest context, but neither verify_mode
    # nor flags nor the number of tickets: this one must have them right, so it is made alike.
    listening = newest(None)

    def swap(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = newest(name)

    listening.sni_callback = swap
    return listening


def _context(
    protocol: int, pinned: PinnedKeys, trusted: Iterable[str], *, leaf: Leaf | None
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    for member in trusted:
        context.load_verify_locations(
            cadata=anchor_of(pinned.cluster_id, member, pinned.keys[member])
        )
    if leaf is not None:
        load_leaf(context, leaf.certificate + leaf.key)
    return context


def load_leaf(context: ssl.SSLContext, pem: bytes) -> None:
    """Have the context show these certificates, with the key that follows them.

    `load_cert_chain` reads files only: a file in memory keeps the key off the disk.
    """
    descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
