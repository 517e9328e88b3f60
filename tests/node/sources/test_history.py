"""A `.git` for the workspace: what git says in it, what is not in it, and what a stranger tries."""

import os
import secrets
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from common.pipeline.pipeline_file import Clone
from node.sources.checkout import Checkout
from node.sources.history import History, HistoryRoom
from node.sources.mirror import Source
from node.sources.tree import BUILD_USER_ID, TreeRefused
from tests.node.conftest import CheckoutMaker, ConfigMaker, GitRepository

BYTES_MAX = 16 * 2**20
FULL = Clone(None, True)
# what a repository would make if it could run something here
TRIPWIRE = Path(tempfile.gettempdir()) / f"pbft-ci-never-{secrets.token_hex(8)}"


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def history_of(
    checkout: Checkout,
    repository: GitRepository,
    commit: str,
    clone: Clone,
    folder: Path,
    **more: Any,
) -> History | TreeRefused:
    """Check a commit out and add its history; the tree is in folder/tree.tar."""
    tree, work = made(folder) / "tree.tar", made(folder / "work")
    source = await checkout.check_out(
        repository.url, "refs/heads/main", commit, target=tree, workspace_bytes=BYTES_MAX
    )
    assert isinstance(source, Source)
    room = HistoryRoom(tree, work, more.get("bytes_max", BYTES_MAX - source.tree_bytes))
    return await checkout.add_history(
        repository.url, "refs/heads/main", commit, clone=clone, room=room
    )


def unpacked(folder: Path) -> Path:
    """The workspace as a step has it."""
    workspace = folder / "workspace"
    with tarfile.open(folder / "tree.tar") as archive:
        archive.extractall(workspace, filter="fully_trusted")
    for path in (workspace, *workspace.rglob("*")):
        os.chown(path, os.getuid(), os.getgid(), follow_symlinks=False)
    return workspace


def was_run() -> bool:
    return TRIPWIRE.exists()


def said(workspace: Path, *arguments: str) -> str:
    """What git says there, with a configuration as a container has it: none."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    answer = subprocess.run(
        ["git", *arguments],
        cwd=workspace,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return answer.stdout.strip()


def with_history(repository: GitRepository) -> list[str]:
    """Four commits, and tags: light and annotated, of the first, the third and a side branch."""
    commits = [repository.commit({"file": f"{number}\n"}) for number in range(4)]
    repository.git("tag", "light-1", commits[0])
    repository.git("tag", "--annotate", "--message=x", "v1.0", commits[2])
    repository.git("tag", "--annotate", "--message=x", "of-a-tag", "v1.0")
    repository.git("checkout", "--quiet", "-b", "side", commits[1])
    side = repository.commit({"file": "side\n"})
    repository.git("tag", "beside", side)
    repository.git("checkout", "--quiet", "main")
    return commits


async def test_git_sees_the_commit_with_its_history_and_its_tags(
    repository: GitRepository, checkout: Checkout, tmp_path: Path
) -> None:
    commits = with_history(repository)
    found = await history_of(checkout, repository, commits[3], FULL, tmp_path / "a")
    assert isinstance(found, History)
    assert found.tag_count == 2
    workspace = unpacked(tmp_path / "a")
    assert said(workspace, "describe") == f"v1.0-1-g{commits[3][:7]}"
    assert said(workspace, "log", "--format=%H").split() == commits[::-1]
    assert said(workspace, "tag").split() == ["light-1", "v1.0"]
    assert said(workspace, "status", "--porcelain") == ""
    assert said(workspace, "fsck") == ""
    assert said(workspace, "branch", "--all") == "* (no branch)"


async def test_a_history_is_as_deep_as_the_pipeline_asks_for(
    repository: GitRepository, checkout: Checkout, tmp_path: Path
) -> None:
    commits = with_history(repository)
    for depth in (1, 2, 100):
        folder = tmp_path / f"{depth}"
        found = await history_of(checkout, repository, commits[3], Clone(depth, True), folder)
        assert isinstance(found, History)
        workspace = unpacked(folder)
        assert said(workspace, "log", "--format=%H").split() == commits[::-1][:depth]
        assert found.tag_count == {1: 0, 2: 1, 100: 2}[depth]
        assert said(workspace, "fsck") == ""
    found = await history_of(checkout, repository, commits[3], Clone(2, False), tmp_path / "none")
    assert isinstance(found, History)
    assert said(unpacked(tmp_path / "none"), "tag") == ""


async def test_what_is_older_than_the_branch_has_a_history_of_its_own(
    repository: GitRepository, checkout: Checkout, tmp_path: Path
) -> None:
    """Nothing of what came after the commit is there: a later tag, a later commit."""
    commits = with_history(repository)
    await history_of(checkout, repository, commits[1], FULL, tmp_path / "a")
    workspace = unpacked(tmp_path / "a")
    assert said(workspace, "tag") == "light-1"
    objects = said(workspace, "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")
    assert commits[1] in objects.split()
    assert commits[2] not in objects.split()


async def test_two_replicas_have_equal_histories(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    tmp_path: Path,
) -> None:
    """One knew the repository before: its mirror has other packs, and a tag that is gone since."""
    commits = with_history(repository)
    repository.git("tag", "gone", commits[0])
    old = make_checkout(make_config(repository.url, data_directory=tmp_path / "old"))
    await history_of(old, repository, commits[0], FULL, tmp_path / "before")
    repository.git("tag", "--delete", "gone")
    new = make_checkout(make_config(repository.url, data_directory=tmp_path / "new"))
    found = [
        await history_of(checkout, repository, commits[3], FULL, tmp_path / name)
        for name, checkout in (("one", old), ("two", new))
    ]
    assert isinstance(found[0], History)
    assert found[0] == found[1]
    files: list[dict[str, object]] = []
    for name in ("one", "two"):
        with tarfile.open(tmp_path / name / "tree.tar") as archive:
            files.append({m.name: m.mtime for m in archive if "/objects/pack/" not in m.name})
        workspace = unpacked(tmp_path / name)
        for file in ("HEAD", "config", "packed-refs", "index"):
            files[-1][file] = (workspace / ".git" / file).read_bytes()
    assert files[0] == files[1]


async def test_nothing_of_the_operator_or_of_the_server_is_in_it(
    repository: GitRepository, checkout: Checkout, tmp_path: Path
) -> None:
    commits = with_history(repository)
    # what a hostile repository may have on its own side
    repository.git("config", "core.fsmonitor", f"touch {TRIPWIRE}")
    repository.git("config", "remote.origin.url", "https://user:word@example.org/x")
    hook = repository.folder / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {TRIPWIRE}\n")
    hook.chmod(0o755)
    await history_of(checkout, repository, commits[3], FULL, tmp_path / "a")
    with tarfile.open(tmp_path / "a" / "tree.tar") as archive:
        members = {member.name: member for member in archive if member.name.startswith(".git")}
    packs = {name for name in members if name.startswith(".git/objects/pack/")}
    assert {Path(name).suffix for name in packs} == {".pack", ".idx"}
    folders = {"", "/objects", "/objects/info", "/objects/pack"}
    folders |= {"/refs", "/refs/heads", "/refs/tags"}
    files = {"/HEAD", "/config", "/packed-refs", "/index"}
    assert set(members) - packs == {f".git{name}" for name in folders | files}
    assert {(m.uid, m.gid) for m in members.values()} == {(BUILD_USER_ID, BUILD_USER_ID)}
    config = (unpacked(tmp_path / "a") / ".git" / "config").read_text()
    assert config == "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
    assert not was_run()


async def test_a_tree_that_looks_like_settings_of_git_steers_nothing(
    repository: GitRepository, checkout: Checkout, tmp_path: Path
) -> None:
    """Attributes, a file of submodules and a name with a line feed; they are content alone."""
    commit = repository.commit(
        {
            ".gitattributes": "* filter=x diff=x text eol=crlf\n",
            ".gitmodules": f'[submodule "x"]\n\tpath = x\n\turl = ext::touch {TRIPWIRE}\n',
            ".gitconfig": f"[core]\n\tfsmonitor = touch {TRIPWIRE}\n",
            "hooks/post-checkout": f"#!/bin/sh\ntouch {TRIPWIRE}\n",
            "a\nb": "x",
        }
    )
    found = await history_of(checkout, repository, commit, FULL, tmp_path / "a")
    assert isinstance(found, History)
    assert said(unpacked(tmp_path / "a"), "status", "--porcelain") == ""
    assert not was_run()


@pytest.mark.parametrize("content", ["of noise", "that packs to nothing"])
async def test_too_long_a_history_is_refused_by_its_sizes_alone(
    repository: GitRepository, checkout: Checkout, tmp_path: Path, content: str
) -> None:
    """However well a replica packs it; a history that is cut off before it fits."""
    size = 2 * 2**20
    data = bytes(size) if content == "that packs to nothing" else os.urandom(size)
    repository.commit({"large": data})
    commit = repository.commit({"small": "x"})
    for name, bytes_max, fits in (("less", size, False), ("more", 2 * size, True)):
        found = await history_of(
            *(checkout, repository, commit, FULL, tmp_path / name), bytes_max=bytes_max
        )
        assert isinstance(found, History) is fits
    assert isinstance(found, History)
    found = await history_of(
        *(checkout, repository, commit, Clone(1, True), tmp_path / "cut"), bytes_max=size
    )
    assert isinstance(found, History)


async def test_a_repository_with_the_longer_object_ids(
    tmp_path: Path, make_config: ConfigMaker, make_checkout: CheckoutMaker
) -> None:
    repository = GitRepository(tmp_path / "long")
    for path in sorted((repository.folder / ".git").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    repository.git("init", "--quiet", "--initial-branch=main", "--object-format=sha256")
    commit = repository.commit({"file": "x"})
    repository.git("tag", "v1")
    checkout = make_checkout(make_config(repository.url))
    assert isinstance(await history_of(checkout, repository, commit, FULL, tmp_path / "a"), History)
    assert said(unpacked(tmp_path / "a"), "describe", "--tags") == "v1"
