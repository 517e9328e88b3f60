"""An index of Python packages: which files a release has, and which of them a build is given.

The page is JSON (PEP 691) or HTML (PEP 503). It may leave files out, but it cannot change any: each
is known by a hash of the lock file.
"""

import html.parser
import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import msgspec
from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)

PAGE_BYTES_MAX = 64 * 2**20
JSON_TYPE = "application/vnd.pypi.simple.v1+json"
ACCEPTED = f"{JSON_TYPE}, text/html;q=0.1"
# of the wheels of other versions of Python, which are passed over
_PYTHON_3 = re.compile(r"(py3|cp3[0-9]+|py2\.py3)")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,254}")
_LINUX = re.compile(r"(many|musl)?linux.*")
_NO_PLATFORM = "any"


class IndexFile(msgspec.Struct, frozen=True):
    """A file of a release. digests: as in `common.dependencies.lock_file.Input`."""

    name: str
    url: str
    digests: tuple[str, ...]


class _JsonFile(msgspec.Struct, frozen=True):
    filename: str
    url: str
    hashes: dict[str, str] = {}


class _JsonPage(msgspec.Struct, frozen=True):
    files: tuple[_JsonFile, ...]


class UnreadablePage(ValueError):
    """The page is no index."""


_page = msgspec.json.Decoder(_JsonPage)


def read_page(data: bytes, url: str, *, is_json: bool) -> tuple[IndexFile, ...]:
    """The files of a page that came from that URL. Raises UnreadablePage."""
    if is_json:
        try:
            page = _page.decode(data)
        except (ValueError, RecursionError) as error:
            raise UnreadablePage(str(error)) from error
        found = [
            (entry.filename, entry.url, [f"{a}:{h}" for a, h in entry.hashes.items()])
            for entry in page.files
        ]
    else:
        anchors = _Anchors()
        anchors.feed(data.decode("utf-8", "replace"))
        found = []
        for link in anchors.links:
            try:
                address, fragment = urldefrag(link)
                name = unquote(urlsplit(address).path.rpartition("/")[2])
            except ValueError:
                continue
            found.append((name, address, [fragment.replace("=", ":", 1)] if fragment else []))
    return tuple(
        IndexFile(name, urljoin(url, address), tuple(digest.lower() for digest in digests))
        for name, address, digests in found
        if _FILE_NAME.fullmatch(name)
    )


class _Anchors(html.parser.HTMLParser):
    """Collects the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """As the base class calls it."""
        if tag == "a":
            self.links.extend(value for name, value in attributes if name == "href" and value)


def pinned_files(page: Iterable[IndexFile], digests: Sequence[str]) -> dict[str, IndexFile]:
    """The files of a page that a lock file pins, by the digest that it names."""
    found: dict[str, IndexFile] = {}
    for file in page:
        for digest in file.digests:
            if digest in digests:
                found.setdefault(digest, file)
    return found


def chosen_files(
    pinned: dict[str, IndexFile], *, python: str | None, machine: str
) -> dict[str, IndexFile]:
    """Those that a build on Linux is given: the wheels that fit, else the source archives.

    python: `3.12`, or None for any version 3. machine: as `x86_64`.
    """
    wheels = {
        digest: file
        for digest, file in pinned.items()
        if file.name.endswith(".whl") and _fits(file.name, python, machine)
    }
    return wheels or {
        digest: file for digest, file in pinned.items() if _is_source_archive(file.name)
    }


def is_wanted(marker: str, python: str | None, machine: str) -> bool:
    """Whether a requirement with this marker (PEP 508) is for a build on Linux.

    Without a version of Python, a marker that depends on it counts as true.
    """
    if not marker:
        return True
    versions = [python] if python else [f"3.{minor}" for minor in range(8, 20)]
    try:
        parsed = Marker(marker)
        return any(parsed.evaluate(_environment(version, machine)) for version in versions)
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, RecursionError):
        return True


def _environment(version: str, machine: str) -> dict[str, str]:
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{version}.0",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{version}.0",
        "python_version": version,
        "sys_platform": "linux",
        "extra": "",
    }


def _fits(name: str, python: str | None, machine: str) -> bool:
    try:
        tags = parse_wheel_filename(name)[3]
    except InvalidWheelFilename:
        return False
    platforms = {tag.platform for tag in tags}
    here = {
        platform
        for platform in platforms
        if platform == _NO_PLATFORM
        or (_LINUX.fullmatch(platform) and platform.endswith(f"_{machine}"))
    }
    if not here:
        return False
    if python is None:
        return any(_PYTHON_3.fullmatch(tag.interpreter) for tag in tags)
    version = tuple(int(part) for part in python.split("."))
    known = set(cpython_tags(version, platforms=here))
    known |= set(compatible_tags(version, f"cp{version[0]}{version[1]}", here))
    return not known.isdisjoint(tags)


def _is_source_archive(name: str) -> bool:
    try:
        parse_sdist_filename(name)
    except InvalidSdistFilename:
        return False
    return True
