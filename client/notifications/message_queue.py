"""The messages that are to be sent, in the gateway's database: one row for a target and build.

The rule: a row is written in the transaction that archives the verdict, and stays when it is sent.
So no crash loses a message, and no verdict that is taken in again makes a second one. A crash
between a receiver's answer and its note sends the same message once more, with the same identity.
"""

import hashlib

import msgspec

from client.notifications.message import Message
from client.storage.database import Database

# What nobody has taken yet; the oldest make room.
WAITING_MAX = 10_000
SETTLED_KEPT = 10_000

IDENTITY_BYTES = 16


class WaitingMessage(msgspec.Struct, frozen=True):
    """A message that is to be sent. Times are seconds since 1970."""

    target: str
    # the same at each try
    identity: str
    message: Message
    since: float
    attempts: int
    not_before: float


class MessageQueue:
    """The queue. Methods that change something must be called inside `Database.transaction`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, target: str, message: Message, now: float) -> bool:
        """Have this sent; False if this target was told of the build already."""
        touched = self._database.write(
            "INSERT OR IGNORE INTO messages (target, build, message, since) VALUES (?, ?, ?, ?)",
            (target, bytes.fromhex(message.build), msgspec.msgpack.encode(message), now),
        )
        if touched:
            self._make_room(is_settled=False, kept=WAITING_MAX)
        return bool(touched)

    def next(self, target: str) -> WaitingMessage | None:
        """What is due first for a target, due or not."""
        found = self._database.row(
            "SELECT message, since, attempts, not_before FROM messages "
            "WHERE target = ? AND is_settled = 0 ORDER BY not_before, since LIMIT 1",
            (target,),
        )
        if found is None:
            return None
        encoded, since, attempts, not_before = found
        message = msgspec.msgpack.decode(encoded, type=Message)
        identity = identity_of(target, message.build)
        return WaitingMessage(target, identity, message, since, attempts, not_before)

    def count(self) -> int:
        """How many wait."""
        found = self._database.row("SELECT count(*) FROM messages WHERE is_settled = 0")
        assert found is not None
        return int(found[0])

    def note_settled(self, waiting: WaitingMessage, given_up: str | None = None) -> None:
        """It is sent, or given up for this reason."""
        self._note(waiting, "is_settled = 1, given_up = ?", given_up)
        self._make_room(is_settled=True, kept=SETTLED_KEPT)

    def note_later(self, waiting: WaitingMessage, not_before: float) -> None:
        """It was in vain; not again before then."""
        self._note(waiting, "attempts = attempts + 1, not_before = ?", not_before)

    def settle_all(self, given_up: str) -> None:
        """Send nothing that waits by now, for this reason."""
        self._database.write(
            "UPDATE messages SET is_settled = 1, given_up = ? WHERE is_settled = 0", (given_up,)
        )

    def _note(self, waiting: WaitingMessage, change: str, value: object) -> None:
        self._database.write(
            f"UPDATE messages SET {change} WHERE target = ? AND build = ?",  # noqa: S608 - constants only
            (value, waiting.target, bytes.fromhex(waiting.message.build)),
        )

    def _make_room(self, *, is_settled: bool, kept: int) -> None:
        self._database.write(
            "DELETE FROM messages WHERE (target, build) IN (SELECT target, build FROM messages "
            "WHERE is_settled = ? ORDER BY since DESC LIMIT -1 OFFSET ?)",
            (is_settled, kept),
        )


def identity_of(target: str, build: str) -> str:
    """What a receiver knows the message by. Pure."""
    return hashlib.sha256(f"{target}\n{build}".encode()).hexdigest()[: 2 * IDENTITY_BYTES]
