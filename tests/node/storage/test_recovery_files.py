"""However often a crash comes between, a store that was lost is never taken for a new one."""

from pathlib import Path

import pytest

from node.storage import folders, recovery_files
from node.storage.recovery_files import DAMAGED_NAME
from node.storage.store import DATABASE_NAME, REDO_NAME

NAMES = (DATABASE_NAME, f"{DATABASE_NAME}-wal", REDO_NAME)


def _write(folder: Path, text: str) -> None:
    for name in NAMES:
        (folder / name).write_text(text)


def _texts(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in NAMES if (folder / name).exists()}


def test_the_damaged_files_are_moved_away_and_others_stay(tmp_path: Path) -> None:
    _write(tmp_path, "damaged")
    (tmp_path / "builds").mkdir()
    assert not recovery_files.is_begun(tmp_path)
    kept = recovery_files.begin(tmp_path)
    assert kept == tmp_path / DAMAGED_NAME
    assert recovery_files.is_begun(tmp_path)
    assert (_texts(tmp_path), set(_texts(kept).values())) == ({}, {"damaged"})
    assert (tmp_path / "builds").is_dir()
    _write(tmp_path, "new")
    recovery_files.finish(tmp_path)
    assert not recovery_files.is_begun(tmp_path)
    assert set(_texts(tmp_path).values()) == {"new"}


def test_a_new_store_of_a_try_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    _write(tmp_path, "damaged")
    recovery_files.begin(tmp_path)
    _write(tmp_path, "half begun")
    kept = recovery_files.begin(tmp_path)
    assert _texts(tmp_path) == {}
    assert set(_texts(kept).values()) == {"damaged"}


def test_the_next_damage_takes_the_place_of_the_last(tmp_path: Path) -> None:
    for text in ("first", "second"):
        _write(tmp_path, text)
        kept = recovery_files.begin(tmp_path)
        recovery_files.finish(tmp_path)
        assert set(_texts(kept).values()) == {text}


@pytest.mark.parametrize("moved", range(len(NAMES)))
def test_a_crash_while_files_are_moved(
    tmp_path: Path, moved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, "damaged")
    rename, count = Path.rename, 0

    def stop(path: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count > moved:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(OSError, match="Input/output"):
            recovery_files.begin(tmp_path)
    assert recovery_files.is_begun(tmp_path)
    kept = recovery_files.begin(tmp_path)
    assert _texts(tmp_path) == {}
    assert _texts(kept) == dict.fromkeys(NAMES, "damaged")


def test_each_step_is_on_disk_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PROTOCOL.md, Recovery: the marker is on disk before the damaged files are moved away, and
    goes only when the new store says that the replica recovers.
    """
    _write(tmp_path, "damaged")
    kept = tmp_path / DAMAGED_NAME
    synced: list[tuple[str, bool, int, int]] = []
    sync = folders.sync

    def noted(directory: Path) -> None:
        sync(directory)
        is_marked = recovery_files.is_begun(tmp_path)
        synced.append((directory.name, is_marked, len(_texts(tmp_path)), len(_texts(kept))))

    monkeypatch.setattr(folders, "sync", noted)
    recovery_files.begin(tmp_path)
    assert synced == [
        (tmp_path.name, True, 3, 0),
        (DAMAGED_NAME, True, 0, 3),
        (tmp_path.name, True, 0, 3),
    ]
    synced.clear()
    _write(tmp_path, "new")
    recovery_files.finish(tmp_path)
    assert synced == [(tmp_path.name, False, 3, 3)]
