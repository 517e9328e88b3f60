"""Checkouts: what is proved, what the server answered, and what is an infrastructure error."""

import asyncio
import hashlib
import os
import shutil
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest

from common.configuration.config import RepositoryEntry
from node.sources import tree
from node.sources.checkout import Checkout, NotThere
from node.sources.mirror import Heads, NotAFile, Source
from node.sources.tree import TreeRefused, file_digests
from node.work.infrastructure_error import InfrastructureError
from node.work.threads import Stop
from scripts.free_ports import free_ports
from tests.node.conftest import (
    PATIENCE_SECONDS,
    WORKSPACE_BYTES,
    CheckoutMaker,
    ConfigMaker,
    GitRepository,
    until,
)

ELSEWHERE = "f" * 40
MOVED = "or was moved since"


async def is_moved(checkout: Checkout, url: str, reference: str, commit: str, target: Path) -> bool:
    """Whether the answer is that a reference does not lead there now, which is no finding."""
    with pytest.raises(InfrastructureError, match=MOVED) as error:
        await checkout.check_out(
            url, reference, commit, target=target, workspace_bytes=WORKSPACE_BYTES
        )
    return error.value.is_permanent


async def test_the_files_of_a_commit(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    commit = repository.commit(
        {
            ".pbft-ci.yml": "image: a\n",
            "folder/file": "content",
            "hidden": "x",
            # attributes have no say in what a build sees
            ".gitattributes": "hidden export-ignore\nfolder/file export-subst text eol=crlf\n",
        },
        links={"link": "/etc/passwd"},
    )
    found = await checkout.check_out(
        repository.url, "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, Source)
    assert found.pipeline == b"image: a\n"
    assert found.dockerfile is None
    assert found.tree == target
    assert found.commit_seconds == int(repository.git("show", "-s", "--format=%ct", commit))
    with tarfile.open(target) as archive:
        members = {member.name: member for member in archive}
        assert set(members) == {
            *(".gitattributes", ".pbft-ci.yml", "folder", "folder/file", "hidden", "link")
        }
        content = archive.extractfile("folder/file")
        assert content is not None
        assert content.read() == b"content"
    assert members["link"].issym()
    assert members["link"].linkname == "/etc/passwd"
    assert {member.mtime for member in members.values()} == {found.commit_seconds}
    assert {member.uid for member in members.values()} == {65534}


async def test_two_nodes_export_the_same_bytes(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    tmp_path: Path,
) -> None:
    repository.commit({"a": "1"})
    script = repository.folder / "script"
    script.write_text("x" * 5000)
    script.chmod(0o755)
    repository.git("add", "script")
    repository.git("commit", "--quiet", "--message=script")
    commit = repository.git("rev-parse", "HEAD")
    digests = set()
    for index in range(2):
        config = make_config(repository.url, data_directory=tmp_path / f"data{index}")
        target = tmp_path / f"{index}.tar"
        found = await make_checkout(config).check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
        assert isinstance(found, Source)
        digests.add(hashlib.sha256(target.read_bytes()).digest())
        with tarfile.open(target) as archive:
            assert archive.getmember("script").mode == 0o755
            assert archive.getmember("a").mode == 0o644
    assert len(digests) == 1


async def test_names_that_are_no_text_and_very_long_ones(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    odd = b"\xff\xfe\n"
    (repository.folder / os.fsdecode(odd)).write_text("odd")
    deep = "/".join(["d" * 60] * 5)
    (repository.folder / deep).mkdir(parents=True)
    (repository.folder / deep / "f").write_text("deep")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message=names")
    commit = repository.git("rev-parse", "HEAD")
    assert isinstance(
        await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        ),
        Source,
    )
    with tarfile.open(target, errors="surrogateescape") as archive:
        assert {os.fsdecode(odd), f"{deep}/f"} <= set(archive.getnames())


async def test_another_repository_in_the_tree_is_an_empty_folder(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    repository.commit({"a": "1"})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{ELSEWHERE},module")
    repository.git("commit", "--quiet", "--message=module")
    commit = repository.git("rev-parse", "HEAD")
    assert isinstance(
        await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        ),
        Source,
    )
    with tarfile.open(target) as archive:
        assert archive.getmember("module").isdir()


async def test_repositories_with_long_ids(
    tmp_path: Path, make_config: ConfigMaker, make_checkout: CheckoutMaker, target: Path
) -> None:
    repository = GitRepository(tmp_path / "long")
    shutil.rmtree(repository.folder / ".git")
    repository.git("init", "--quiet", "--initial-branch=main", "--object-format=sha256")
    commit = repository.commit({"a": "1"})
    assert len(commit) == 64
    checkout = make_checkout(make_config(repository.url))
    assert isinstance(
        await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        ),
        Source,
    )


async def test_a_commit_that_is_not_on_the_branch(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    """It may have been, until somebody pushed with force: no finding about it is right."""
    repository.commit({"a": "1"})
    repository.git("checkout", "--quiet", "-b", "other")
    commit = repository.commit({"a": "2"})
    asked = (checkout, repository.url, "refs/heads/main", commit, target)
    assert await is_moved(*asked)
    assert isinstance(
        await checkout.check_out(
            repository.url,
            "refs/heads/other",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        ),
        Source,
    )
    # now that its objects are in the mirror it is still not on the branch
    assert await is_moved(*asked)


async def test_a_branch_or_a_commit_that_does_not_exist(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    commit = repository.commit({"a": "1"})
    for branch, asked in (("nothing", commit), ("main", ELSEWHERE)):
        assert await is_moved(checkout, repository.url, f"refs/heads/{branch}", asked, target)
    found = await checkout.check_out(
        repository.url, "refs/heads/nothing", None, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, NotThere)


async def test_tags_and_requests(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    """A commit that no branch leads to, from each other place that may be asked for.

    A commit before it is neither the tag's nor the head of the request.
    """
    main = repository.commit({"a": "1"})
    repository.git("checkout", "--quiet", "--detach")
    commit = repository.commit({"a": "2"})
    repository.git("tag", "plain", commit)
    repository.git("tag", "--annotate", "--message=x", "annotated", commit)
    repository.git("update-ref", "refs/pull/7/head", commit)
    repository.git("update-ref", "refs/merge-requests/8/head", commit)
    places = ["refs/tags/plain", "refs/tags/annotated", "refs/pull/7/head"]
    for reference in (*places, "refs/merge-requests/8/head"):
        found = await checkout.check_out(
            repository.url, reference, commit, target=target, workspace_bytes=WORKSPACE_BYTES
        )
        assert isinstance(found, Source), reference
        assert await is_moved(checkout, repository.url, reference, main, target)
    # neither by the short name of a tag, nor where nothing is
    for reference in ("refs/heads/main", "refs/heads/plain", "refs/pull/9/head"):
        assert await is_moved(checkout, repository.url, reference, commit, target)
    # nor at what is never asked for
    for reference in ("refs/notes/x", "plain"):
        found = await checkout.check_out(
            repository.url, reference, commit, target=target, workspace_bytes=WORKSPACE_BYTES
        )
        assert isinstance(found, NotThere), reference


async def test_a_tag_that_was_moved(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    first = repository.commit({"a": "1"})
    repository.git("tag", "v1", first)
    asked = ("refs/tags/v1", first)
    assert isinstance(
        await checkout.check_out(
            repository.url, *asked, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )
    repository.git("checkout", "--quiet", "--orphan", "other")
    second = repository.commit({"b": "1"})
    repository.git("tag", "--force", "v1", second)
    found = await checkout.check_out(
        repository.url, "refs/tags/v1", second, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, Source)
    assert await is_moved(checkout, repository.url, "refs/tags/v1", first, target)


async def test_a_tag_of_something_else_than_a_commit(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    commit = repository.commit({"a": "1"})
    repository.git("tag", "tree", f"{commit}^{{tree}}")
    assert await is_moved(checkout, repository.url, "refs/tags/tree", commit, target)


async def test_a_branch_whose_name_ends_like_the_one_asked_for(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    repository.commit({"a": "1"})
    repository.git("branch", "refs/heads/other")
    found = await checkout.check_out(
        repository.url, "refs/heads/other", None, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, NotThere)


async def test_the_id_of_a_tag_is_no_commit(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    commit = repository.commit({"a": "1"})
    repository.git("tag", "--annotate", "--message=x", "v1", commit)
    tag = repository.git("rev-parse", "v1")
    assert tag != commit
    mirror_filler = await checkout.check_out(
        repository.url, "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(mirror_filler, Source)
    assert await is_moved(checkout, repository.url, "refs/heads/main", tag, target)
    # also where the mirror has the tag itself
    assert isinstance(
        await checkout.check_out(
            repository.url, "refs/tags/v1", commit, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )
    for reference in ("refs/heads/main", "refs/tags/v1"):
        assert await is_moved(checkout, repository.url, reference, tag, target)


async def test_a_request_without_commit_for_a_branch_that_exists_now(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    repository.commit({"a": "1"})
    with pytest.raises(InfrastructureError, match="exists now") as error:
        await checkout.check_out(
            repository.url, "refs/heads/main", None, target=target, workspace_bytes=WORKSPACE_BYTES
        )
    assert error.value.is_permanent


async def test_a_commit_that_comes_while_it_is_asked_for_again(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
) -> None:
    repository.commit({"a": "1"})
    repository.git("checkout", "--quiet", "-b", "late")
    commit = repository.commit({"a": "2"})
    checkout = make_checkout(make_config(repository.url), asked_again_seconds=60)
    task = asyncio.create_task(
        checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
    )
    # the first answer was no: the branch is in the mirror, without the commit
    await until(lambda: list((tmp_path / "data/mirrors").glob("*.git/refs/pbft-ci/*")) != [])
    repository.git("branch", "--force", "main", "late")
    assert isinstance(await asyncio.wait_for(task, PATIENCE_SECONDS), Source)


@pytest.mark.parametrize("branch", ["--upload-pack=touch owned", "-x", "a..b", "a b", "a:b", ""])
async def test_names_that_no_branch_can_have(
    repository: GitRepository, checkout: Checkout, target: Path, branch: str
) -> None:
    commit = repository.commit({"a": "1"})
    for asked in (commit, None):
        found = await checkout.check_out(
            repository.url,
            f"refs/heads/{branch}",
            asked,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
        assert isinstance(found, NotThere)
    assert list((target.parent / "data" / "mirrors").iterdir()) == []


async def test_only_what_the_operator_lists(
    repository: GitRepository, checkout: Checkout, target: Path, tmp_path: Path
) -> None:
    other = GitRepository(tmp_path / "other")
    commit = other.commit({"a": "1"})
    for url in (other.url, str(repository.folder), repository.url + "/", "ext::sh -c id", "-x"):
        with pytest.raises(InfrastructureError, match="list") as error:
            await checkout.check_out(
                url, "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
            )
        assert error.value.is_permanent


async def test_a_helper_that_runs_programs_is_refused_even_if_listed(
    make_config: ConfigMaker, make_checkout: CheckoutMaker, target: Path, tmp_path: Path
) -> None:
    url = f"ext::touch {tmp_path}/owned"
    checkout = make_checkout(make_config(url))
    with pytest.raises(InfrastructureError, match="repositories"):
        await checkout.check_out(
            url, "refs/heads/main", "a" * 40, target=target, workspace_bytes=WORKSPACE_BYTES
        )
    assert not (tmp_path / "owned").exists()


async def test_a_mirror_of_the_operators_own(
    repository: GitRepository, make_config: ConfigMaker, make_checkout: CheckoutMaker, target: Path
) -> None:
    commit = repository.commit({"a": "1"})
    entry = RepositoryEntry("https://example.invalid/a.git", fetch_url=repository.url)
    checkout = make_checkout(make_config(entry))
    assert isinstance(
        await checkout.check_out(
            entry.url, "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )


async def test_where_the_operator_fetches_from_is_told_to_nobody(
    repository: GitRepository, make_config: ConfigMaker, make_checkout: CheckoutMaker, target: Path
) -> None:
    """Reasons are in the ledger, and what the server answered is in the log."""
    repository.commit({"a": "1"})
    module = GitRepository(repository.folder.with_name("secret-module"))
    text = '[submodule "m"]\n\tpath = lib\n\turl = https://example.invalid/module\n'
    (repository.folder / ".gitmodules").write_text(text)
    repository.git("add", ".gitmodules")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{ELSEWHERE},lib")
    repository.git("commit", "--quiet", "--message=module")
    commit = repository.git("rev-parse", "HEAD")
    names = ("https://example.invalid/main", "https://example.invalid/module")
    entries = [
        RepositoryEntry(name, fetch_url=there.url, submodule_of=names[:1])
        for name, there in zip(names, (repository, module), strict=True)
    ]
    checkout = make_checkout(make_config(*entries))
    found = await checkout.check_out(
        names[0], "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, NotThere)
    assert names[1] in found.problem
    assert "secret-module" not in found.problem
    module.folder.rename(repository.folder.with_name("gone"))
    with pytest.raises(InfrastructureError, match=names[1]) as error:
        await checkout.check_out(
            names[0], "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
        )
    assert "secret-module" not in error.value.reason


async def test_a_server_that_is_down(
    make_config: ConfigMaker, make_checkout: CheckoutMaker, target: Path
) -> None:
    url = f"git://127.0.0.1:{free_ports(1)[0]}/a"
    checkout = make_checkout(make_config(url))
    for commit in ("a" * 40, None):
        with pytest.raises(InfrastructureError) as error:
            await checkout.check_out(
                url, "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
            )
        assert not error.value.is_permanent


def git_processes(text: str) -> list[str]:
    """The processes whose command line contains a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if text in command:
                found.append(command)
    return found


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_server_that_never_answers(
    make_config: ConfigMaker, make_checkout: CheckoutMaker, target: Path, is_cancelled: bool
) -> None:
    """The time is limited, and a cancelled checkout ends at once; no git stays behind."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"git://127.0.0.1:{server.getsockname()[1]}/a"
        checkout = make_checkout(
            make_config(url, checkout_timeout_seconds=600 if is_cancelled else 3)
        )
        task = asyncio.create_task(
            checkout.check_out(
                url, "refs/heads/main", "a" * 40, target=target, workspace_bytes=WORKSPACE_BYTES
            )
        )
        # git has come, and may be gone by now if its time is limited
        server.settimeout(PATIENCE_SECONDS)
        connection, _ = await asyncio.to_thread(server.accept)
        if is_cancelled:
            assert git_processes(url) != []
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, PATIENCE_SECONDS)
        else:
            with pytest.raises(InfrastructureError, match=" 3 s"):
                await asyncio.wait_for(task, PATIENCE_SECONDS)
        connection.close()
        assert git_processes(url) == []


async def test_a_pipeline_file_must_be_a_small_plain_file(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    link = repository.commit({"a": "1"}, links={".pbft-ci.yml": "/etc/passwd"})
    large = repository.commit({".pbft-ci.yml": "#" * 70_000, "Dockerfile": "#" * 70_000})
    folder = repository.commit({".pbft-ci.yml/x": "1", "Dockerfile/x": "1"})
    for commit in (link, large, folder):
        found = await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
        assert isinstance(found, Source)
        assert isinstance(found.pipeline, NotAFile)
        assert commit == link or isinstance(found.dockerfile, NotAFile)


async def test_a_tree_that_is_too_large(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    fitting = repository.commit({"a": b"x" * WORKSPACE_BYTES})
    too_large = repository.commit({"a": b"x" * WORKSPACE_BYTES, "b": "x"})
    found = await checkout.check_out(
        repository.url,
        "refs/heads/main",
        fitting,
        target=target,
        workspace_bytes=WORKSPACE_BYTES,
    )
    assert isinstance(found, Source)
    assert found.tree == target
    found = await checkout.check_out(
        repository.url,
        "refs/heads/main",
        too_large,
        target=target,
        workspace_bytes=WORKSPACE_BYTES,
    )
    assert isinstance(found, Source)
    assert isinstance(found.tree, TreeRefused)


async def test_a_tree_of_too_many_entries_is_counted_before_it_is_read(
    repository: GitRepository, checkout: Checkout, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "ENTRIES_MAX", 4)
    made: list[str] = []
    really = tree.TreeEntry

    def make(*fields: Any) -> tree.TreeEntry:
        made.append(fields[-1])
        return really(*fields)

    monkeypatch.setattr(tree, "TreeEntry", make)
    files: dict[str, str | bytes] = {".pbft-ci.yml": "image: a\n", "a": "", "folder/b": ""}
    fitting = repository.commit(files)
    found = await checkout.check_out(
        repository.url, "refs/heads/main", fitting, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, Source)
    assert found.tree == target
    made.clear()
    too_many = repository.commit(files | {"folder/c": ""})
    found = await checkout.check_out(
        repository.url, "refs/heads/main", too_many, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, Source)
    assert found.tree == TreeRefused("has 5 entries; at most 4")
    assert found.pipeline == b"image: a\n"
    assert made == [".pbft-ci.yml"]


@pytest.mark.parametrize("name", [b"..", b".", b".git", b".GIT", b"a/b"])
async def test_trees_that_no_file_system_should_be_given(
    repository: GitRepository, checkout: Checkout, target: Path, name: bytes
) -> None:
    """Refused by git on its way in, or by us: never exported."""
    blob = repository.git("hash-object", "-w", "--stdin", data=b"x")
    tree = repository.git(
        *("hash-object", "-w", "-t", "tree", "--literally", "--stdin"),
        data=b"100644 " + name + b"\0" + bytes.fromhex(blob),
    )
    commit = repository.git("commit-tree", "-m", "x", tree)
    repository.git("update-ref", "refs/heads/main", commit)
    try:
        found = await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
    except InfrastructureError:
        found = None
    assert found is None or isinstance(found, Source)
    if isinstance(found, Source):
        assert isinstance(found.tree, TreeRefused)
    assert list(target.parent.glob("*.tar")) == []


@pytest.mark.parametrize("is_folder", [False, True])
async def test_a_name_that_no_file_system_takes(
    repository: GitRepository, checkout: Checkout, target: Path, is_folder: bool
) -> None:
    """Refused by the rule, not where it is unpacked: that would be an infrastructure error."""
    blob = repository.git("hash-object", "-w", "--stdin", data=b"x")
    inner = repository.git("mktree", data=f"100644 blob {blob}\tf\n".encode())
    kind = f"040000 tree {inner}" if is_folder else f"100644 blob {blob}"
    # in bytes, not in letters
    for name, is_taken in (("n" * 255, True), ("n" * 256, False), ("\u00e4" * 128, False)):
        tree = repository.git("mktree", "-z", data=f"{kind}\t{name}\0".encode())
        commit = repository.git("commit-tree", "-m", "x", tree)
        repository.git("update-ref", "refs/heads/main", commit)
        found = await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
        assert isinstance(found, Source)
        assert isinstance(found.tree, TreeRefused) is not is_taken
        if isinstance(found.tree, TreeRefused):
            assert "255 bytes" in found.tree.problem


async def test_the_nodes_own_environment_does_not_steer_git(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit = repository.commit({"a": "1"})
    other = GitRepository(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other.folder / ".git"))
    monkeypatch.setenv("GIT_SSL_NO_VERIFY", "1")
    monkeypatch.setenv("GIT_EXEC_PATH", repository.git("--exec-path"))
    checkout = make_checkout(make_config(repository.url))
    assert "GIT_SSL_NO_VERIFY" not in os.environ
    assert "GIT_EXEC_PATH" in os.environ
    assert isinstance(
        await checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        ),
        Source,
    )


async def test_a_checkout_keeps_the_list_that_it_began_with(
    repository: GitRepository, make_config: ConfigMaker, make_checkout: CheckoutMaker, target: Path
) -> None:
    """Another list is for checkouts that begin after it came."""
    repository.commit({"file": "1"})
    checkout = make_checkout(
        make_config(repository.url, local_images=("ours:1",)), PATIENCE_SECONDS
    )
    # a commit that comes later, while the server is asked again and again
    aside = "refs/heads/aside"
    commit = repository.commit({"file": "2"})
    repository.git("update-ref", aside, commit)
    repository.git("update-ref", "refs/heads/main", f"{commit}^")
    begun = asyncio.create_task(
        checkout.check_out(
            repository.url,
            "refs/heads/main",
            commit,
            target=target,
            workspace_bytes=WORKSPACE_BYTES,
        )
    )
    # it begins in the loop's next turn
    await asyncio.sleep(0)
    checkout.use_repositories(())
    with pytest.raises(InfrastructureError, match="not on this replica's list"):
        await checkout.check_out(
            repository.url, aside, commit, target=target, workspace_bytes=WORKSPACE_BYTES
        )
    repository.git("update-ref", "refs/heads/main", commit)
    found = await begun
    assert isinstance(found, Source)
    assert "ours:1" in found.local_images
    checkout.use_repositories((RepositoryEntry(repository.url),))
    found = await checkout.check_out(
        repository.url, aside, commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, Source)
    assert found.local_images == ()


async def test_a_checkout_brings_what_the_server_said_of_its_heads(
    repository: GitRepository, checkout: Checkout, tmp_path: Path
) -> None:
    """Of one question: whether the branch is still where the mirror has it. A fetch asks none."""
    first = repository.commit({"file": "1"})
    second = repository.commit({"file": "2"})

    async def heads() -> Heads | None:
        found = await checkout.check_out(
            repository.url,
            "refs/heads/main",
            first,
            target=tmp_path / "tree.tar",
            workspace_bytes=WORKSPACE_BYTES,
        )
        assert isinstance(found, Source)
        return found.heads

    assert await heads() is None
    assert await heads() == Heads("main", second)
    repository.commit({"file": "3"})
    # what was said before the fetch is not told
    assert await heads() is None


async def test_what_the_server_says_of_its_heads(
    repository: GitRepository, checkout: Checkout
) -> None:
    first = repository.commit({"file": "1"})
    repository.git("branch", "x/main")
    second = repository.commit({"file": "2"})
    entry = checkout.entry_of(repository.url)
    assert entry is not None
    assert await checkout.ask_heads(entry, "refs/heads/main") == Heads("main", second)
    # names that end like the ones asked for
    repository.git("update-ref", "refs/heads/HEAD", first)
    assert await checkout.ask_heads(entry, "refs/heads/x/main") == Heads("main", first)
    repository.git("switch", "--quiet", "--detach")
    assert await checkout.ask_heads(entry, "refs/heads/absent") == Heads(None, None)


async def test_what_files_of_a_tree_hold(
    repository: GitRepository, checkout: Checkout, target: Path
) -> None:
    commit = repository.commit({"a/lock": "1", "other": "2"}, links={"link": "other"})
    found = await checkout.check_out(
        repository.url, "refs/heads/main", commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, Source)
    digest = hashlib.sha256(b"1").hexdigest()
    # links, folders and what is absent are no plain files
    names = ("a/lock", "link", "a", "absent", "lock")
    assert file_digests(target, names, Stop()) == {"a/lock": digest}
