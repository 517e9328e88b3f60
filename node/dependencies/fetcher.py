"""Fetches what lock files pin into the store: several at a time, each within bounds.

The rule: where bytes come from is the operator's word, and what they are is the lock file's. A
server may be anywhere if the operator wrote it. Where its answers lead to, and what a lock file
names by address, must be listed by the operator and have a public address. Nothing is unpacked.
"""

import asyncio
import base64
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from common.dependencies.lock_file import Input, Tool
from common.host_patterns import is_host_name, is_meant
from node.dependencies.fetch_messages import FetchOrder, Server, Stored
from node.dependencies.fetch_plan import address_of, file_of, origin, server_of
from node.dependencies.input_store import UNFINISHED, InputStore, WrongBytes
from node.dependencies.pip_index import (
    ACCEPTED,
    PAGE_BYTES_MAX,
    IndexFile,
    UnreadablePage,
    chosen_files,
    is_wanted,
    pinned_files,
    read_page,
)
from node.egress.addresses import is_open

AT_ONCE_MAX = 16
TRIES_MAX = 4
PAUSE_SECONDS = 0.5
REDIRECTS_MAX = 4
CONNECT_SECONDS_MAX = 15.0
SILENCE_SECONDS_MAX = 30.0
CHUNK_BYTES = 256 * 1024
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_GONE = frozenset({404, 410})
_REDIRECT = frozenset({301, 302, 303, 307, 308})


class NotServed(Exception):
    """A server has not what is pinned, or something else of that name; the text says which."""


class NotReached(Exception):
    """A server does not answer as it should, or this operator names none. is_permanent: another try
    would come to the same."""

    def __init__(self, text: str, *, is_permanent: bool = False) -> None:
        super().__init__(text)
        self.is_permanent = is_permanent


class _Again(Exception):
    """Worth another try; the text says what went wrong."""


class Fetcher:
    """Of one order. `fetch` runs once."""

    def __init__(self, order: FetchOrder, store: InputStore) -> None:
        self._order = order
        self._store = store
        self._bytes_left = order.bytes_max
        self._slots = asyncio.Semaphore(AT_ONCE_MAX)
        self._ends_at = time.monotonic() + order.seconds
        self._sessions: dict[tuple[str | None, bool], aiohttp.ClientSession] = {}
        self._count = 0

    async def fetch(
        self, wanted: Sequence[Input], python: Mapping[str, str | None]
    ) -> list[Stored]:
        """All of them, as they are in the store now.

        python: of pip, the version by the input's place. Raises NotServed, NotReached, OSError.
        """
        tasks = [asyncio.create_task(self._fetch(each, python.get(each.place))) for each in wanted]
        try:
            async with asyncio.timeout(self._order.seconds):
                found = await asyncio.gather(*tasks)
        except TimeoutError as error:
            seconds = f"{self._order.seconds:g}"
            raise NotReached(f"fetching took longer than {seconds} seconds") from error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for session in self._sessions.values():
                await session.close()
        return [stored for group in found for stored in group]

    async def _fetch(self, wanted: Input, python: str | None) -> list[Stored]:
        server = server_of(self._order.servers, wanted.tool, wanted.name)
        if server is None:
            raise NotReached(
                f"this operator names no server for {wanted.tool} {wanted.name} (sources)",
                is_permanent=True,
            )
        if wanted.tool is Tool.PIP and wanted.url is None:
            return await self._fetch_release(wanted, server, python)
        address, file = address_of(wanted, server), file_of(wanted)
        return [await self._stored(wanted, server, address, file=file, digests=wanted.digests)]

    async def _fetch_release(
        self, wanted: Input, server: Server, python: str | None
    ) -> list[Stored]:
        """The files of a release of pip that fit; none if its marker is for others."""
        machine = self._order.machine
        if not is_wanted(wanted.marker, python, machine):
            return []
        pinned = await self._pinned(wanted, server)
        missing = len(set(wanted.digests) - pinned.keys())
        if missing:
            # What is missing could be what others are given.
            raise NotServed(
                f"{address_of(wanted, server)} lists {len(pinned)} of the {len(wanted.digests)}"
                f" files of {wanted.name} {wanted.version} that the lock file pins"
            )
        chosen = chosen_files(pinned, python=python, machine=machine)
        if not chosen:
            raise NotServed(
                f"{wanted.name} {wanted.version} has no file for Linux on {machine}"
                f"{'' if python is None else f' with Python {python}'}, and no source archive"
            )
        return [
            await self._stored(wanted, server, file.url, file=file.name, digests=(digest,))
            for digest, file in sorted(chosen.items())
        ]

    async def _pinned(self, wanted: Input, server: Server) -> dict[str, IndexFile]:
        url = address_of(wanted, server)
        target = self._new_file()
        try:
            answer = await self._get(url, server, target, bytes_max=PAGE_BYTES_MAX, accept=ACCEPTED)
            data = await asyncio.to_thread(target.read_bytes)
        finally:
            _remove(target)
        try:
            page = read_page(data, answer.url, is_json="json" in answer.content_type)
        except UnreadablePage as error:
            raise NotServed(f"{url} is no index of packages: {error}") from error
        return pinned_files(page, wanted.digests)

    async def _stored(
        self, wanted: Input, server: Server, url: str, *, file: str, digests: tuple[str, ...]
    ) -> Stored:
        """One file, from the store or else from the server."""
        for digest in digests:
            if self._store.has(digest):
                break
        else:
            digest = await self._download(wanted, server, url, digests=digests)
        return Stored(
            tool=wanted.tool,
            name=wanted.name,
            version=wanted.version,
            part=wanted.part,
            file=file,
            digest=digest,
            length=_size(self._store.path(digest)),
            url=wanted.url,
        )

    async def _download(
        self, wanted: Input, server: Server, url: str, *, digests: tuple[str, ...]
    ) -> str:
        target = self._new_file()
        try:
            answer = await self._get(url, server, target, bytes_max=self._order.bytes_max)
            found = ""
            for digest in digests:
                try:
                    await asyncio.to_thread(self._store.put, target, digest, wanted.part)
                except WrongBytes as error:
                    found = str(error)
                else:
                    return digest
            size = _size(target)
            raise NotServed(
                f"{answer.url} sent other bytes of {wanted.tool} {wanted.name} {wanted.version}:"
                f" {size} bytes with {found}, and {' or '.join(digests[:2])} is pinned"
                f"{answer.certificate}"
            )
        finally:
            _remove(target)

    async def _get(
        self, url: str, server: Server, target: Path, *, bytes_max: int, accept: str = "*/*"
    ) -> "_Answer":
        """Write the body to a file, which may be a part of it already from a try before."""
        problem = ""
        for number in range(TRIES_MAX):
            if number:
                await asyncio.sleep(PAUSE_SECONDS * 4 ** (number - 1))
            try:
                async with self._slots:
                    return await self._get_once(
                        url, server, target, bytes_max=bytes_max, accept=accept
                    )
            except _Again as error:
                problem = str(error)
            except (aiohttp.ClientError, TimeoutError, ssl.SSLError) as error:
                problem = str(error) or type(error).__name__
        raise NotReached(f"{url}: {problem}")

    async def _get_once(
        self, url: str, server: Server, target: Path, *, bytes_max: int, accept: str
    ) -> "_Answer":
        for _ in range(REDIRECTS_MAX + 1):
            is_own = self._check_address(url, server)
            headers = {"Accept": accept, "Accept-Encoding": "identity"}
            if is_own and server.login is not None:
                headers["Authorization"] = _authorization(server.login)
            begun = _size(target)
            if begun:
                headers["Range"] = f"bytes={begun}-"
            session = self._session(server, is_own=is_own)
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                location = response.headers.get("Location")
                if response.status in _REDIRECT and location is not None:
                    url = urljoin(url, location)
                    continue
                await self._take(response, target, begun=begun, bytes_max=bytes_max)
                return _Answer(
                    str(response.url), response.content_type, _certificate(response.connection)
                )
        raise NotReached(f"{url}: more than {REDIRECTS_MAX} redirects")

    async def _take(
        self, response: aiohttp.ClientResponse, target: Path, *, begun: int, bytes_max: int
    ) -> None:
        """Write the body of an answer behind what is there of it."""
        if response.status in _AGAIN:
            raise _Again(f"HTTP {response.status}")
        if response.status in _GONE:
            raise NotServed(f"{response.url}: HTTP {response.status}, it is not there")
        is_rest = response.status == 206 and begun > 0
        if is_rest and not response.headers.get("Content-Range", "").startswith(f"bytes {begun}-"):
            _remove(target)
            raise _Again("it sent another part than it was asked for")
        if response.status == 416:
            _remove(target)
            raise _Again("HTTP 416")
        if not is_rest and response.status != 200:
            is_permanent = response.status in (401, 403)
            raise NotReached(f"{response.url}: HTTP {response.status}", is_permanent=is_permanent)
        total = begun if is_rest else 0
        with _opened(target, is_rest=is_rest) as file:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                total += len(chunk)
                self._bytes_left -= len(chunk)
                if total > bytes_max or self._bytes_left < 0:
                    raise NotReached(
                        f"{response.url}: the inputs have more than {self._order.bytes_max} bytes"
                        " (inputs_bytes_max)",
                        is_permanent=True,
                    )
                file.write(chunk)

    def _check_address(self, url: str, server: Server) -> bool:
        """Whether it is the operator's own server. Raises NotServed if nobody may ask there."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise NotServed(f"{url[:200]!r} is no address") from error
        if server.url is not None and origin(url) == origin(server.url):
            return True
        if parts.scheme != "https" or not is_host_name(host):
            raise NotServed(f"{url[:200]!r} is no https:// address with a host's name")
        if not is_meant(server.hosts, host, port or 443):
            raise NotReached(
                f"{url[:200]!r}: this operator does not list {host} for {server.tool} (sources:"
                " hosts)",
                is_permanent=True,
            )
        return False

    def _session(self, server: Server, *, is_own: bool) -> aiohttp.ClientSession:
        """For the operator's own server, or for those that may be reached at public addresses."""
        key = (server.authorities if is_own else None, is_own)
        if key not in self._sessions:
            # True: the usual authorities, which aiohttp has read once at its import (30 ms)
            context = True if key[0] is None else ssl.create_default_context(cadata=key[0])
            connector = aiohttp.TCPConnector(
                limit=AT_ONCE_MAX, ssl=context, resolver=None if is_own else _PublicResolver()
            )
            self._sessions[key] = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    sock_connect=CONNECT_SECONDS_MAX, sock_read=SILENCE_SECONDS_MAX
                ),
            )
        return self._sessions[key]

    def _new_file(self) -> Path:
        self._count += 1
        return self._store.folder / f"{self._ends_at:.6f}-{self._count}{UNFINISHED}"


class _Answer:
    """Where a body came from in the end, what it is said to be, and by whose certificate."""

    def __init__(self, url: str, content_type: str, certificate: str) -> None:
        self.url = url
        self.content_type = content_type
        self.certificate = certificate


class _PublicResolver(AbstractResolver):
    """Gives only addresses that anybody may be sent to; connections are made to those."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """As the base class says. Raises OSError."""
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, family=family
        )
        addresses = [(kind, address) for kind, _, _, _, address in found]
        public = [(kind, address) for kind, address in addresses if is_open(str(address[0]), ())]
        if not public:
            raise OSError(f"{host} has no public address")
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, address in public
        ]

    async def close(self) -> None:
        """Nothing is held."""


# A process that does nothing else may wait for its disk.
def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)


def _opened(file: Path, *, is_rest: bool) -> BinaryIO:
    return file.open("ab" if is_rest else "wb")


def _authorization(login: str) -> str:
    if ":" in login:
        return f"Basic {base64.b64encode(login.encode()).decode()}"
    return f"Bearer {login}"


def _certificate(connection: object) -> str:
    """By whose authority the server spoke, for people: it may be somebody between."""
    transport = getattr(connection, "transport", None)
    found = None if transport is None else transport.get_extra_info("peercert")
    if not found:
        return ""
    issuer = ", ".join(value for part in found.get("issuer", ()) for _, value in part)
    return f"; its certificate is of {issuer}"
