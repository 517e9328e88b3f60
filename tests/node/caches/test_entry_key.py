"""What an entry's key depends on."""

import msgspec

from common.pipeline.pipeline_file import Cache, CachedPath
from node.caches.entry_key import EntryOwner, entry_key

OWNER = EntryOwner("https://git.example.org/a.git", "main")
CACHE = Cache("venv", (CachedPath("home", "venv"),), ("lock", "more"))
FILES = {"lock": "1" * 64, "more": "2" * 64, "other": "3" * 64}
IMAGES = ("sha256:1", "sha256:2")


def test_equal_builds_have_equal_keys() -> None:
    key = entry_key(OWNER, CACHE, image_ids=IMAGES, files=FILES)
    assert len(key) == 64
    changed = FILES | {"other": "4" * 64}
    assert entry_key(OWNER, CACHE, image_ids=(*IMAGES[::-1], IMAGES[0]), files=changed) == key


def test_whatever_differs_makes_another_key() -> None:
    replace = msgspec.structs.replace
    keys = {
        entry_key(OWNER, CACHE, image_ids=IMAGES, files=FILES),
        entry_key(replace(OWNER, branch="other"), CACHE, image_ids=IMAGES, files=FILES),
        entry_key(replace(OWNER, repository="x"), CACHE, image_ids=IMAGES, files=FILES),
        entry_key(OWNER, replace(CACHE, name="x"), image_ids=IMAGES, files=FILES),
        entry_key(OWNER, replace(CACHE, files=("lock",)), image_ids=IMAGES, files=FILES),
        entry_key(
            OWNER,
            replace(CACHE, paths=(CachedPath("workspace", "venv"),)),
            image_ids=IMAGES,
            files=FILES,
        ),
        entry_key(OWNER, CACHE, image_ids=IMAGES[:1], files=FILES),
        entry_key(OWNER, CACHE, image_ids=IMAGES, files=FILES | {"lock": "4" * 64}),
        # the same content under another name
        entry_key(
            OWNER,
            CACHE,
            image_ids=IMAGES,
            files={"lock": FILES["more"], "more": FILES["lock"]},
        ),
    }
    assert len(keys) == 9
