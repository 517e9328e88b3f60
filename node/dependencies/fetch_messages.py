"""What a node tells the process that fetches, and what that process answers."""

import msgspec

from common.configuration.package_sources import PackageSource
from common.dependencies.lock_file import Tool


class LockText(msgspec.Struct, frozen=True):
    """A lock file of the commit. python: of pip, for which version of Python, as `3.12`."""

    tool: Tool
    file: str
    data: bytes
    python: str | None = None


class Server(PackageSource, frozen=True, kw_only=True):
    """A source, with the content of its files in their place."""

    login: str | None = None
    authorities: str | None = None


class FetchOrder(msgspec.Struct, frozen=True):
    """What to fetch, from where, and into which folder (`input_store`).

    machine: of the build, as `x86_64`. bytes_max: of all inputs. seconds: for all of it.
    """

    locks: tuple[LockText, ...]
    servers: tuple[Server, ...]
    folder: str
    machine: str
    bytes_max: int
    seconds: float


class Stored(msgspec.Struct, frozen=True, order=True):
    """An input that is in the store.

    digest: by which the lock file pins it, and under which it is stored. file: a name for it, which
    is unique among those of its tool.
    """

    tool: Tool
    name: str
    version: str
    part: str
    file: str
    digest: str
    length: int
    url: str | None = None


class Inputs(msgspec.Struct, frozen=True, tag="inputs"):
    """All inputs, sorted. rewritten: the lock files of npm, as steps are to see them, by path."""

    stored: tuple[Stored, ...]
    rewritten: tuple[tuple[str, bytes], ...] = ()


class Flawed(msgspec.Struct, frozen=True, tag="flawed"):
    """The lock files cannot be built from: which file, and why, for each flaw. The same on every
    replica."""

    flaws: tuple[tuple[str, str], ...]


class Unavailable(msgspec.Struct, frozen=True, tag="unavailable"):
    """A server has not what a lock file pins, or has other bytes: which, and what came."""

    text: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """This operator's matter: nobody is named to be asked, or a server does not answer.

    is_permanent: another try would come to the same.
    """

    text: str
    is_permanent: bool = False


Answer = Inputs | Flawed | Unavailable | Failed

order_decoder: msgspec.msgpack.Decoder[FetchOrder] = msgspec.msgpack.Decoder(FetchOrder)
answer_decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
