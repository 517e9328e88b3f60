"""What a build made: what a pattern means, what is refused, and what is kept on disk."""

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.limits import Limits
from ci.operations import Artifact, BuildResult, Outcome
from common.pipeline.pipeline_file import matches
from driver.ports import BuildOrder
from node.outputs import artifact_store
from node.outputs.artifact_store import (
    INDEX,
    Collector,
    FilesWrong,
    artifacts_of,
    keep_artifacts,
    kept_artifacts,
    kept_file,
    take_from_archive,
    take_from_folder,
)
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop, Stopped
from tests.ci.builders import artifact
from tests.node.conftest import (
    Builder,
    BuilderMaker,
    ConfigMaker,
    GitRepository,
    Room,
    pipeline,
)

LIMITS = Limits(artifacts_max=4, artifact_bytes_max=100)
FILES = {"a.txt": b"1", "b.txt": b"22", "dist/app": b"333", "dist/lib/x": b"4444", "other/y": b"5"}


def archive(entries: Iterable[tuple[str, bytes | str]]) -> bytes:
    """A tar as the engine gives it: bytes are files; `->x` a symbolic, `=>x` a hard link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as made:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
            else:
                kinds = {"->": tarfile.SYMTYPE, "=>": tarfile.LNKTYPE, "d": tarfile.DIRTYPE}
                kinds |= {"p": tarfile.FIFOTYPE, "c": tarfile.CHRTYPE}
                kind = next(kind for kind in kinds if content.startswith(kind))
                member.type, member.linkname = kinds[kind], content.removeprefix(kind)
            made.addfile(member, io.BytesIO(content if isinstance(content, bytes) else b""))
    return stream.getvalue()


def take(
    tmp_path: Path,
    patterns: list[str],
    entries: Iterable[tuple[str, bytes | str]],
    limits: Limits = LIMITS,
    root: str = "",
) -> tuple[Artifact, ...]:
    collector = Collector(tmp_path / "made", artifacts_of(patterns, limits))
    data = io.BytesIO(archive(entries))
    take_from_archive(collector, root, data, stop=Stop(), most=limits.workspace_bytes)
    return collector.finish()


def take_all(collector: Collector, workspace: Path) -> tuple[Artifact, ...]:
    take_from_folder(collector, workspace, Stop())
    return collector.finish()


def in_workspace(files: dict[str, bytes]) -> list[tuple[str, bytes | str]]:
    return [(f"workspace/{name}", content) for name, content in files.items()]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["a.txt"], ["a.txt"]),
        (["*.txt"], ["a.txt", "b.txt"]),
        (["?.txt", "a.txt"], ["a.txt", "b.txt"]),
        (["dist"], ["dist/app", "dist/lib/x"]),
        (["dist/*"], ["dist/app", "dist/lib/x"]),
        (["*/app"], ["dist/app"]),
        (["dist/l?b/x", "b.txt"], ["b.txt", "dist/lib/x"]),
    ],
)
def test_a_pattern_means_files_and_folders_with_all_below(
    tmp_path: Path, patterns: list[str], expected: list[str]
) -> None:
    found = take(tmp_path, patterns, in_workspace(FILES))
    assert found == tuple(artifact(path, FILES[path]) for path in expected)


@given(
    st.text("ab*?/", min_size=1, max_size=12).filter(lambda text: "**" not in text),
    st.text("ab/", min_size=1, max_size=12),
)
def test_patterns_mean_what_those_of_branches_mean(pattern: str, path: str) -> None:
    """As the other matcher chooses, which is written in another way."""
    parts = path.split("/")
    heads = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    expected = any(matches(pattern, head) for head in heads)
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(Path(folder) / "made", artifacts_of([pattern], LIMITS))
        assert collector._means(pattern, path) == expected


def test_a_hostile_pattern_takes_little_time_and_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = "*".join("a" * 120) + "*b"
    collector = Collector(tmp_path / "made", artifacts_of([pattern] * 64, LIMITS))
    assert not collector._means(pattern, "a" * 255)
    monkeypatch.setattr(artifact_store, "COMPARISONS_MAX", 2)
    assert not collector._means(pattern, "a" * 255)
    with pytest.raises(FilesWrong, match="too many files to compare"):
        collector._means(pattern, "a" * 255)


def test_the_same_is_taken_from_a_folder_of_this_machine(tmp_path: Path) -> None:
    for name, content in FILES.items():
        path = tmp_path / "workspace" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    patterns = ["dist/*", "?.txt"]
    collector = Collector(tmp_path / "local", artifacts_of(patterns, LIMITS))
    assert take_all(collector, tmp_path / "workspace") == take(
        tmp_path, patterns, in_workspace(FILES)
    )


def test_where_patterns_look(tmp_path: Path) -> None:
    patterns = ["a/b.txt", "a/*.txt", "*.whl", "?/b", "a/c/*", "a/c/d*"]
    collector = Collector(tmp_path / "made", artifacts_of(patterns, LIMITS))
    assert list(collector.roots()) == ["a/b.txt", "a", "", "a/c"]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([], "out: the build did not make it"),
        ([("out", "d")], "out: the build did not make it"),
        ([("out/" + "l" * n, "->x") for n in range(1, 6)], "one more than 4 files"),
        ([("out/x", b"1"), ("out/z", "=>out/x")], "out/z: is a second name of another"),
        ([("out", "p")], "out: is a special file"),
        ([("out", "c")], "out: is a special file"),
        ([("out/a\nb", b"")], "has a character that a path here cannot have"),
        ([("out/\udcff", b"")], "has a character that a path here cannot have"),
        ([("out/../../etc/x", b"")], "has a part that is empty, `.` or `..`"),
        ([("out/" + "x" * 252, b"")], "is longer than 255 bytes"),
        ([(f"out/{n}", b"") for n in range(5)], "one more than 4 files; pack them into one"),
        ([("out", b"x" * 101)], "more than 100 bytes with those before it"),
        ([("out/a", b"x" * 60), ("out/b", b"x" * 60)], "out/b: more than 100 bytes"),
    ],
)
def test_what_cannot_be_taken_fails_the_build_and_says_why(
    tmp_path: Path, entries: list[tuple[str, bytes | str]], said: str
) -> None:
    with pytest.raises(FilesWrong) as refused:
        take(tmp_path, ["out"], entries, root="out")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_nobody_named_may_be_anything(tmp_path: Path) -> None:
    entries: list[tuple[str, bytes | str]] = [
        ("workspace/link", "->/etc"),
        ("workspace/\x1b[31m", b"x" * 500),
        ("workspace/keep.txt", b"1"),
    ]
    assert take(tmp_path, ["*.txt"], entries) == (artifact("keep.txt", b"1"),)


def test_a_search_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Limits(workspace_bytes=2**20)
    huge = [("workspace/hole", b"\0" * (2**20 + 1))]
    with pytest.raises(FilesWrong, match="more than 1048576 bytes to search"):
        take(tmp_path, ["*.txt"], huge, small)
    monkeypatch.setattr(artifact_store, "ENTRIES_MAX", 3)
    many = in_workspace({f"{number}": b"" for number in range(4)})
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(FilesWrong, match="more than 3 files to search"):
        take(other, ["x*"], many)


def test_an_archive_that_breaks_off_is_an_infrastructure_error(tmp_path: Path) -> None:
    whole = archive([("out", b"x" * 90)])
    for length in (10, 520, 512 + 89):
        collector = Collector(tmp_path / f"{length}", artifacts_of(["out"], LIMITS))
        with pytest.raises(InfrastructureError):
            take_from_archive(collector, "out", io.BytesIO(whole[:length]), stop=Stop(), most=2**20)


def test_taking_can_be_stopped(tmp_path: Path) -> None:
    stop = Stop()
    stop.set()
    collector = Collector(tmp_path / "made", artifacts_of(["out"], LIMITS))
    with pytest.raises(Stopped):
        take_from_archive(
            collector, "out", io.BytesIO(archive([("out", b"1")])), stop=stop, most=2**20
        )


def test_links_of_this_machine_lead_nowhere(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "real").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (workspace / "link").symlink_to(tmp_path)
    (workspace / "file").symlink_to(tmp_path / "secret")
    links = {
        "up": "../secret",
        "real/up": "../../secret",
        "through": "link/secret",
        "gone": "nowhere",
        "folder": "empty",
        "loop": "pool",
        "pool": "./loop",
        "fifo": "pipe",
    }
    for name, target in links.items():
        (workspace / name).symlink_to(target)
    (workspace / "empty").mkdir()
    (workspace / "real" / "one").write_text("1")
    os.link(workspace / "real" / "one", workspace / "real" / "two")
    os.mkfifo(workspace / "pipe")
    for number, (pattern, said) in enumerate(
        [
            ("link/secret", "link: is a symbolic link, no folder"),
            ("link/*", "is a symbolic link"),
            ("file", "file: is a symbolic link to /"),
            ("up", "up: is a symbolic link to ../secret; only what leads to a file in"),
            ("real/up", "real/up: is a symbolic link to ../../secret; only what leads"),
            ("through", "link: is a symbolic link, no folder"),
            ("gone", "gone: is a symbolic link to nowhere, where no plain file is"),
            ("folder", "folder: is a symbolic link to empty, where no plain file is"),
            ("loop", "loop: is the first of more than 8 links; copy the file"),
            ("fifo", "pipe: is a special file, no plain file; copy it (cp)"),
            ("real", "real/two: is a second name of another file"),
            ("real/one\nreal/two", "real/two: is a second name of another file"),
            ("real/two\nreal/one", "real/one: is a second name of another file"),
            ("pipe", "is a special file"),
            ("none/*", "none/*: the build did not make it"),
        ]
    ):
        collector = Collector(
            tmp_path / f"made {number}", artifacts_of(pattern.split("\n"), LIMITS)
        )
        with pytest.raises(FilesWrong) as refused:
            take_all(collector, workspace)
        assert said in str(refused.value)
    # under one of its names a file is one
    collector = Collector(tmp_path / "made", artifacts_of(["real/two"], LIMITS))
    assert [found.path for found in take_all(collector, workspace)] == ["real/two"]


def test_a_link_is_taken_as_the_plain_file_that_it_points_to(tmp_path: Path) -> None:
    """As `make install` leaves a library: two links, the first by way of the second."""
    workspace = tmp_path / "workspace"
    (workspace / "lib" / "old").mkdir(parents=True)
    (workspace / "lib" / "old" / "real.so").write_bytes(b"x" * 30)
    (workspace / "lib" / "x.so.1.7").write_bytes(b"y" * 20)
    (workspace / "lib" / "x.so.1").symlink_to("x.so.1.7")
    (workspace / "lib" / "x.so").symlink_to("x.so.1")
    # none of the patterns means what this one points to
    (workspace / "x.so.0").symlink_to("lib/../lib/old/real.so")
    collector = Collector(tmp_path / "made", artifacts_of(["lib/x.so*", "x.so.?"], LIMITS))
    assert take_all(collector, workspace) == (
        artifact("lib/x.so", b"y" * 20),
        artifact("lib/x.so.1", b"y" * 20),
        artifact("lib/x.so.1.7", b"y" * 20),
        artifact("x.so.0", b"x" * 30),
    )
    few = Limits(artifacts_max=4, artifact_bytes_max=89)
    collector = Collector(tmp_path / "too much", artifacts_of(["lib/x.so*", "x.so.?"], few))
    with pytest.raises(FilesWrong, match="more than 89 bytes"):
        take_all(collector, workspace)


def test_what_is_kept_is_found_by_path_and_named_by_digest(tmp_path: Path) -> None:
    made = take(tmp_path, ["*.txt", "dist"], in_workspace(FILES))
    kept = tmp_path / "artifacts"
    assert kept_artifacts(kept) is None
    assert kept_file(kept, "a.txt") is None
    keep_artifacts(tmp_path / "made", kept)
    assert kept_artifacts(kept) == made
    assert {path.name for path in kept.iterdir()} == {INDEX, *(item.sha256 for item in made)}
    for item in made:
        found = kept_file(kept, item.path)
        assert found is not None
        assert found[1] == item
        assert hashlib.sha256(found[0].read_bytes()).hexdigest() == item.sha256
    for path in ("", "..", "../artifacts/index.json", INDEX, made[0].sha256, "dist", "/a.txt"):
        assert kept_file(kept, path) is None


def test_a_build_that_runs_again_replaces_what_it_made(tmp_path: Path) -> None:
    kept = tmp_path / "artifacts"
    for content in (b"1", b"2"):
        work = tmp_path / f"work {content!r}"
        work.mkdir()
        made = take(work, ["x"], [("x", content)], root="x")
        keep_artifacts(work / "made", kept)
        assert kept_artifacts(kept) == made == (artifact("x", content),)
        assert (kept / made[0].sha256).read_bytes() == content


def test_all_of_it_is_on_the_disk_before_it_has_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, kept = tmp_path / "made", tmp_path / "kept" / "artifacts"
    kept.parent.mkdir()
    (found,) = take(tmp_path, ["a.txt"], in_workspace(FILES))
    synced: list[tuple[Path, bool]] = []
    monkeypatch.setattr(artifact_store, "sync", lambda path: synced.append((path, kept.exists())))
    keep_artifacts(made, kept)
    before = {path for path, is_kept in synced if not is_kept}
    assert before == {made / INDEX, made / found.sha256, made}
    assert synced[-2:] == [(made, False), (kept.parent, True)]


@pytest.mark.parametrize("index", [b"", b"[", b'{"a": 1}', b"\xff", b" " * 300_000 + b"[]"])
def test_an_index_that_cannot_be_read_is_none(tmp_path: Path, index: bytes) -> None:
    (tmp_path / INDEX).write_bytes(index)
    assert kept_artifacts(tmp_path) is None


# --- whole builds ---------------------------------------------------------------------------------


def kept_by(builder: Builder, order: BuildOrder) -> dict[str, bytes]:
    """What a builder keeps of a build: path -> content, checked against its digest."""
    folder = builder.runner.artifacts_path(order.build, order.opened)
    contents = {}
    for item in kept_artifacts(folder) or ():
        content = (folder / item.sha256).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (item.sha256, item.length)
        contents[item.path] = content
    return contents


async def find(
    builder: Builder, repository: GitRepository, text: str
) -> tuple[BuildResult, BuildOrder]:
    order = builder.order(repository.url, repository.commit({".pbft-ci.yml": text}))
    return await builder.find(order), order


@pytest.fixture(name="process_builder")
async def fixture_process_builder(
    repository: GitRepository, make_config: ConfigMaker, make_builder: BuilderMaker
) -> Builder:
    return await make_builder(make_config(repository.url, executor="process"))


MAKE = ("mkdir -p dist/sub", "echo one >dist/one", "echo two >'dist/sub/t wo'", "echo x >x.log")


# one link points to a file that no pattern means, by way of another link
MORE = (
    "head -c 3000000 /dev/zero >dist/big",
    "ln -s big dist/link",
    "mkdir other; echo aside >other/file; ln -s other/file next; ln -s ../next dist/z",
)


async def test_processes_make_artifacts(
    process_builder: Builder, repository: GitRepository
) -> None:
    text = pipeline("none", *MAKE, artifacts=["dist", "*.log"])
    found, order = await find(process_builder, repository, text)
    expected = {"dist/one": b"one\n", "dist/sub/t wo": b"two\n", "x.log": b"x\n"}
    assert found.compared.outcome is Outcome.PASSED
    assert found.compared.artifacts == tuple(
        artifact(path, content) for path, content in expected.items()
    )
    assert kept_by(process_builder, order) == expected
    assert not list(process_builder.runner.log_path(order.build, order.opened).parent.glob("work"))


async def test_a_build_that_failed_has_no_artifacts(
    process_builder: Builder, repository: GitRepository
) -> None:
    text = pipeline("none", "echo 1 >made", "exit 4", artifacts=["made"])
    found, order = await find(process_builder, repository, text)
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 4)
    assert found.compared.artifacts == ()
    assert kept_by(process_builder, order) == {}


async def test_a_missing_artifact_fails_the_build(
    process_builder: Builder, repository: GitRepository
) -> None:
    found, order = await find(
        process_builder, repository, pipeline("none", "true", artifacts=["dist/*.whl"])
    )
    assert (found.compared.outcome, found.compared.exit_code) == (Outcome.FAILED, 1)
    assert "artifact dist/*.whl: the build did not make it" in process_builder.log(order)


@pytest.mark.docker
async def test_containers_make_artifacts_in_any_step(room: Room) -> None:
    builder = await room.make_builder(room.make_config(room.repository.url))
    text = json.dumps(
        {
            "image": room.image,
            "steps": [
                {"name": "make", "commands": MAKE},
                {"name": "more", "commands": MORE},
            ],
            "artifacts": ["dist", "*.log"],
        }
    )
    found, order = await find(builder, room.repository, text)
    expected = {
        "dist/big": bytes(3_000_000),
        "dist/link": bytes(3_000_000),
        "dist/one": b"one\n",
        "dist/sub/t wo": b"two\n",
        "dist/z": b"aside\n",
        "x.log": b"x\n",
    }
    assert found.compared.artifacts == tuple(
        artifact(path, content) for path, content in expected.items()
    )
    assert kept_by(builder, order) == expected


@pytest.mark.docker
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("true", "artifact out: the build did not make it"),
        ("ln -s /etc/passwd out", "artifact out: is a symbolic link to /etc/passwd; only what"),
        ("mkfifo out", "artifact out: is a special file"),
        ("mkdir out; ln -s ../../etc/passwd out/l", "artifact out/l: is a symbolic link to ../../"),
        ("ln fine out", "artifact out: is a second name of another file"),
        ("mkdir out; : >\"out/$(printf 'a\\nb')\"", "has a character"),
        ("truncate -s 1000G out", "more than 67108864 bytes"),
    ],
)
async def test_hostile_artifacts_fail_the_build(room: Room, command: str, said: str) -> None:
    compared, log = await room.run("echo x >fine", command, artifacts=["fine", "out"])
    assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 1)
    assert said in log


@pytest.mark.docker
async def test_no_link_leads_out_of_the_workspace(room: Room) -> None:
    """The engine would follow it, inside the container: into the image, or into HOME."""
    for link, pattern in (("/etc", "l/passwd"), ("/etc", "l/*"), ("$HOME", "l/x/y")):
        compared, log = await room.run(f"ln -s {link} l", artifacts=[pattern])
        assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 1)
        assert "l" in log
        assert "is a symbolic link" in log


@pytest.mark.docker
async def test_a_hole_beside_the_artifacts_ends_the_search(room: Room) -> None:
    compared, log = await room.run("truncate -s 1000G hole", "echo 1 >a.txt", artifacts=["*.txt"])
    assert (compared.outcome, compared.exit_code) == (Outcome.FAILED, 1)
    assert "bytes to search" in log
    compared, _ = await room.run("truncate -s 1000G hole", "echo 1 >a.txt", artifacts=["a.txt"])
    assert compared.outcome is Outcome.PASSED
