"""Inputs for one build after another: what was answered once is not asked for again."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.configuration.package_sources import PackageSource
from common.dependencies.lock_file import Tool
from common.pipeline.pipeline_file import LockedBy
from node.dependencies.input_fetch import ARCHIVE, INPUTS_FOLDER, InputFetch, Prepared
from node.dependencies.input_store import store_name
from node.sources.tree import append_to_tree
from node.work.threads import Stop
from tests.node.conftest import ConfigMaker
from tests.node.dependencies.mirror import Mirror, running_mirror

FILE = "foo-1.0-py3-none-any.whl"
WHEEL = b"a wheel"
DIGEST = hashlib.sha256(WHEEL).hexdigest()
LOCK = f"foo==1.0 --hash=sha256:{DIGEST}\n"


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running_mirror() as mirror:
        mirror.files["/foo/"] = f'<a href="{FILE}#sha256={DIGEST}">{FILE}</a>'.encode()
        mirror.files[f"/foo/{FILE}"] = WHEEL
        yield mirror


@pytest.fixture
def fetch(make_config: ConfigMaker, mirror: Mirror) -> InputFetch:
    made = InputFetch(make_config(sources=(PackageSource(tool=Tool.PIP, url=mirror.url),)))
    made.start()
    return made


def handed(fetch: InputFetch, folder: Path, lock: str = LOCK) -> bytes:
    """The wheel as a build with this lock file is handed it."""
    tree = folder / "tree.tar"
    tree.unlink(missing_ok=True)
    append_to_tree(tree, {"requirements.txt": lock.encode()})
    found = fetch.prepare(
        [LockedBy("pip", "requirements.txt")], tree, folder, source=("r", "c"), stop=Stop()
    )
    assert isinstance(found, Prepared), found
    with tarfile.open(folder / ARCHIVE) as archive:
        content = archive.extractfile(f"pip/{FILE}")
        assert content is not None
        return content.read()


def test_an_answer_counts_as_long_as_the_lock_file_and_the_store_stay(
    fetch: InputFetch, mirror: Mirror, tmp_path: Path
) -> None:
    assert handed(fetch, tmp_path) == WHEEL
    asked = len(mirror.asked)
    assert handed(fetch, tmp_path) == WHEEL
    assert len(mirror.asked) == asked
    # another lock file is another question
    assert handed(fetch, tmp_path, f"# newer\n{LOCK}") == WHEEL
    assert len(mirror.asked) == asked + 1
    stored = tmp_path / "data" / INPUTS_FOLDER / store_name(f"sha256:{DIGEST}")
    stored.unlink()
    assert handed(fetch, tmp_path) == WHEEL
    assert len(mirror.asked) == asked + 3
    stored.write_bytes(b"another")
    assert handed(fetch, tmp_path) == WHEEL
    assert len(mirror.asked) == asked + 5
