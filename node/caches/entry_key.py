"""The key of a cache's entry: what must be equal for a build to use it. Pure.

There are no fallback keys: an entry that is nearly right was made from other files, perhaps by
others.
"""

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from common.pipeline.pipeline_file import Cache

# of the entries' form, too: those of another number are never found
KEY_FORMAT = 2


class EntryOwner(msgspec.Struct, frozen=True):
    """Whose caches they are: a repository's URL, and the branch whose builds write them."""

    repository: str
    branch: str


def entry_key(
    owner: EntryOwner, cache: Cache, *, image_ids: Iterable[str], files: Mapping[str, str]
) -> str:
    """The SHA-256 (hex) of all that decides about an entry.

    image_ids: of the images of the build. An engine's id is the digest of an image's
    configuration, so it names the platform and the content, also of an image without a registry.
    files: the SHA-256 (hex) of each of the cache's files in the commit.
    """
    decisive = (
        KEY_FORMAT,
        owner.repository,
        owner.branch,
        cache.name,
        tuple((path.root, path.path) for path in cache.paths),
        tuple(sorted(set(image_ids))),
        tuple((name, files[name]) for name in sorted(cache.files)),
    )
    return hashlib.sha256(msgspec.json.encode(decisive)).hexdigest()
