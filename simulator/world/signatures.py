"""Signatures in a simulated world: an ideal oracle, or real keys that the caller hands in.

The oracle signs with a secret that only it knows and remembers when each signature was first
made, so that nobody can use a signature before somebody who holds the key made it.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from pbft.ports import Sign, Verify
from simulator.world.scheduler import Scheduler


class Signatures(Protocol):
    """Keys of all members of one world."""

    def later(self, scheduler: Scheduler) -> "Signatures":
        """The same keys in the time of another scheduler, before which all of these were made."""

    def renewed(self, names: Iterable[str]) -> "Signatures":
        """The same keys, but for others of these members."""

    def key_name(self, name: str) -> str:
        """What the present key of that member is called: a renewed one is another key."""

    def public_key(self, name: str) -> bytes:
        """The public key (32 bytes) of that member."""

    def signer(self, name: str) -> Sign:
        """Signing with the key of that member."""

    def signer_of(self, key_name: str) -> Sign:
        """Signing with that key, be it anybody's by now."""

    @property
    def verify(self) -> Verify:
        """(public key, message, signature) -> does it hold?"""


class Oracle:
    """Ideal signatures: what was not signed does not verify, whatever its bytes."""

    def __init__(self, seed: int, scheduler: Scheduler) -> None:
        self._secret = hashlib.sha256(b"oracle %d" % seed).digest()
        self._scheduler = scheduler
        # signature -> (time of first signing, public key, message)
        self._made: dict[bytes, tuple[int, bytes, bytes]] = {}
        self._key_names: Mapping[str, str] = {}

    def later(self, scheduler: Scheduler) -> "Oracle":
        """The same keys in the time of another scheduler, before which all of these were made."""
        other = Oracle(0, scheduler)
        other._secret, other._key_names = self._secret, self._key_names
        other._made = {made: (0, key, message) for made, (_, key, message) in self._made.items()}
        return other

    def renewed(self, names: Iterable[str]) -> "Oracle":
        """The same keys, but for others of these members."""
        other = Oracle(0, self._scheduler)
        other._secret, other._made = self._secret, self._made
        other._key_names = {
            **self._key_names,
            **{name: self.key_name(name) + "'" for name in names},
        }
        return other

    def key_name(self, name: str) -> str:
        """What the present key of that member is called."""
        return self._key_names.get(name, name)

    def public_key(self, name: str) -> bytes:
        """The public key of that member: its number in this world."""
        return self._public_key(self.key_name(name))

    def _public_key(self, key_name: str) -> bytes:
        return hashlib.sha256(b"public " + self._secret + key_name.encode()).digest()

    def signer(self, name: str) -> Sign:
        """Signing with the key of that member."""
        return self.signer_of(self.key_name(name))

    def signer_of(self, key_name: str) -> Sign:
        """Signing with that key, be it anybody's by now."""
        public_key = self._public_key(key_name)
        key = hashlib.sha256(b"private " + self._secret + key_name.encode()).digest()

        def sign(message: bytes) -> bytes:
            signature = hashlib.blake2b(message, key=key).digest()
            self._made.setdefault(signature, (self._scheduler.now, public_key, message))
            return signature

        return sign

    @property
    def verify(self) -> Verify:
        """Whether that key really signed that message by now."""
        made = self._made
        scheduler = self._scheduler

        def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
            entry = made.get(signature)
            if entry is None:
                return False
            return entry[1] == public_key and entry[2] == message and entry[0] <= scheduler.now

        return verify


class RealKeys:
    """Real signatures, by functions from outside: this room imports no cryptography.

    make_key: 32 secret bytes -> (public key of 32 bytes, signing function).
    """

    def __init__(
        self,
        seed: int,
        make_key: Callable[[bytes], tuple[bytes, Sign]],
        verify: Verify,
    ) -> None:
        self._seed = seed
        self._make_key = make_key
        self._verify = verify
        self._keys: dict[str, tuple[bytes, Sign]] = {}
        self._key_names: Mapping[str, str] = {}

    def later(self, scheduler: Scheduler) -> "RealKeys":
        """The same keys in the time of another scheduler."""
        return self

    def renewed(self, names: Iterable[str]) -> "RealKeys":
        """The same keys, but for others of these members."""
        other = RealKeys(self._seed, self._make_key, self._verify)
        other._key_names = {
            **self._key_names,
            **{name: self.key_name(name) + "'" for name in names},
        }
        return other

    def key_name(self, name: str) -> str:
        """What the present key of that member is called."""
        return self._key_names.get(name, name)

    def _key(self, key_name: str) -> tuple[bytes, Sign]:
        if key_name not in self._keys:
            secret = hashlib.sha256(f"{self._seed}/key/{key_name}".encode()).digest()
            self._keys[key_name] = self._make_key(secret)
        return self._keys[key_name]

    def public_key(self, name: str) -> bytes:
        """The public key of that member."""
        return self._key(self.key_name(name))[0]

    def signer(self, name: str) -> Sign:
        """Signing with the key of that member."""
        return self._key(self.key_name(name))[1]

    def signer_of(self, key_name: str) -> Sign:
        """Signing with that key, be it anybody's by now."""
        return self._key(key_name)[1]

    @property
    def verify(self) -> Verify:
        """The real verification."""
        return self._verify


SignaturesMaker = Callable[[int, Scheduler], Signatures]
