"""Checkouts of trees with other repositories in them."""

import os
import tarfile
from pathlib import Path

import pytest

from common.configuration.config import RepositoryEntry
from node.sources.checkout import Checkout, NotThere
from node.sources.mirror import Source
from node.sources.tree import TreeRefused
from node.work.infrastructure_error import InfrastructureError
from tests.node.conftest import WORKSPACE_BYTES, CheckoutMaker, ConfigMaker, GitRepository
from tests.node.git_servers import HttpsGitServer
from tests.secret_files import secret_file

MAIN = "refs/heads/main"
ELSEWHERE = "f" * 40


def add_module(
    repository: GitRepository, path: str, commit: str, text: str | None = None, url: str = ""
) -> str:
    """A commit on top, with another repository's commit at `path`; its id."""
    text = text if text is not None else f'[submodule "m"]\n\tpath = {path}\n\turl = {url}\n'
    file = repository.folder / ".gitmodules"
    with file.open("a") as stream:
        stream.write(text)
    repository.git("add", ".gitmodules")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    repository.git("commit", "--quiet", "--message=module")
    return repository.git("rev-parse", "HEAD")


def contents(target: Path) -> dict[str, str | None]:
    """The files of a tree by path; None for a folder."""
    with tarfile.open(target) as archive:
        found: dict[str, str | None] = {}
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() else None
            found[member.name] = None if stream is None else stream.read().decode()
        return found


async def source_of(
    checkout: Checkout, repository: GitRepository, commit: str, target: Path
) -> Source:
    """What is checked out of that commit of the branch main."""
    found = await checkout.check_out(
        repository.url, MAIN, commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, Source)
    return found


async def refusal_of(
    checkout: Checkout, repository: GitRepository, commit: str, target: Path
) -> str:
    """Why every replica refuses that commit's tree."""
    found = await source_of(checkout, repository, commit, target)
    assert isinstance(found.tree, TreeRefused)
    return found.tree.problem


@pytest.fixture
def library(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "library")


@pytest.fixture
def wanted(repository: GitRepository, library: GitRepository) -> str:
    """The library's commit with the file `code`; the repository has a commit too."""
    repository.commit({"a": "x"})
    return library.commit({"code": "1"})


@pytest.fixture
def both(
    repository: GitRepository,
    library: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
) -> Checkout:
    """A Checkout that lists the repository and the library, which may be in it."""
    entry = RepositoryEntry(library.url, submodule_of=(repository.url,))
    return make_checkout(make_config(repository.url, entry))


@pytest.mark.parametrize("where", ["relative", "with an end that does not matter"])
async def test_a_module_of_the_list(
    repository: GitRepository, library: GitRepository, both: Checkout, target: Path, where: str
) -> None:
    # not the tip of any branch
    wanted = library.commit({"code": "1", "folder/more": "2"})
    library.commit({"code": "later"})
    repository.commit({"a": "x", "libs/other": "y"})
    url = "../library" if where == "relative" else "../library/"
    commit = add_module(repository, "libs/one", wanted, url=url)
    found = await source_of(both, repository, commit, target)
    address = f"{library.url.rstrip('/')}"
    assert found.modules == (f"submodule libs/one: {address} commit {wanted}",)
    assert contents(target) == {
        ".gitmodules": (repository.folder / ".gitmodules").read_text(),
        "a": "x",
        "libs": None,
        "libs/one": None,
        "libs/one/code": "1",
        "libs/one/folder": None,
        "libs/one/folder/more": "2",
        "libs/other": "y",
    }
    # a second time nothing is asked for
    library.folder.rename(library.folder.with_name("gone"))
    await source_of(both, repository, commit, target)
    assert contents(target)["libs/one/code"] == "1"


@pytest.mark.parametrize("is_old", [False, True])
async def test_a_private_module_over_https_with_its_own_login(
    repository: GitRepository,
    library: GitRepository,
    wanted: str,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
    is_old: bool,
) -> None:
    """is_old: git's first protocol refuses what no branch points at, so all is fetched."""
    library.commit({"code": "2"})
    token = secret_file(tmp_path / "token", "module-token")
    with HttpsGitServer(tmp_path / "https", tmp_path, token.read_text()) as server:
        server.is_old = is_old
        url = f"{server.url}/library/.git"
        entry = RepositoryEntry(
            url,
            https_token_file=token,
            ca_file=server.ca_file,
            submodule_of=(repository.url,),
        )
        checkout = make_checkout(make_config(repository.url, entry))
        commit = add_module(repository, "lib", wanted, url=url)
        await source_of(checkout, repository, commit, target)
        assert contents(target)["lib/code"] == "1"
        if is_old:
            commit = add_module(repository, "lib", ELSEWHERE, url=url)
            found = await checkout.check_out(
                repository.url, MAIN, commit, target=target, workspace_bytes=WORKSPACE_BYTES
            )
            assert isinstance(found, NotThere)


@pytest.mark.usefixtures("wanted")
async def test_a_commit_that_the_server_does_not_have(
    repository: GitRepository, both: Checkout, target: Path
) -> None:
    commit = add_module(repository, "lib", ELSEWHERE, url="../library")
    found = await both.check_out(
        repository.url, MAIN, commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, NotThere)
    assert "submodule lib" in found.problem


async def test_a_server_that_is_gone(
    repository: GitRepository, library: GitRepository, wanted: str, both: Checkout, target: Path
) -> None:
    commit = add_module(repository, "lib", wanted, url="../library")
    library.folder.rename(library.folder.with_name("gone"))
    with pytest.raises(InfrastructureError) as error:
        await both.check_out(
            repository.url, MAIN, commit, target=target, workspace_bytes=WORKSPACE_BYTES
        )
    assert not error.value.is_permanent


async def test_a_module_that_is_not_on_the_list(
    repository: GitRepository, checkout: Checkout, wanted: str, target: Path
) -> None:
    for url in ("../library", "https://example.org/library.git"):
        commit = add_module(repository, "lib", wanted, url=url)
        with pytest.raises(
            InfrastructureError, match=r"submodule lib .*add it to repositories"
        ) as error:
            await checkout.check_out(
                repository.url, MAIN, commit, target=target, workspace_bytes=WORKSPACE_BYTES
            )
        assert error.value.is_permanent


@pytest.mark.parametrize("is_nested", [False, True])
async def test_a_private_repository_is_not_given_to_whoever_names_it(
    repository: GitRepository,
    library: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
    is_nested: bool,
) -> None:
    """Who pushes to one repository of the list would else read the others in a build's log.

    Nested, too: what counts is what is built, not what the way to the private one leads through.
    """
    token = secret_file(tmp_path / "token", "module-token")
    middle = GitRepository(tmp_path / "middle")
    secret = library.commit({"code": "secret"})
    middle.commit({"b": "x"})
    within = add_module(middle, "in", secret, url="../library")
    repository.commit({"a": "x"})
    if is_nested:
        commit = add_module(repository, "lib", within, url="../middle")
    else:
        commit = add_module(repository, "lib", secret, url="../library")
    asked = (repository.url, MAIN, commit)

    def checkout_with(*parents: str) -> Checkout:
        entry = RepositoryEntry(library.url, https_token_file=token, submodule_of=parents or None)
        between = RepositoryEntry(middle.url, submodule_of=(repository.url,))
        return make_checkout(make_config(repository.url, between, entry))

    for checkout in (checkout_with(), checkout_with(middle.url)):
        with pytest.raises(
            InfrastructureError, match=r"submodule lib.* add that url to its submod"
        ) as told:
            await checkout.check_out(*asked, target=target, workspace_bytes=WORKSPACE_BYTES)
        assert told.value.is_permanent
        # where it belongs it is there
        assert isinstance(
            await checkout.check_out(
                library.url, MAIN, secret, target=target, workspace_bytes=WORKSPACE_BYTES
            ),
            Source,
        )
    assert isinstance(
        await checkout_with(repository.url).check_out(
            *asked, target=target, workspace_bytes=WORKSPACE_BYTES
        ),
        Source,
    )
    assert contents(target)["lib/in/code" if is_nested else "lib/code"] == "secret"


HTTPS_LIBRARY = "https://git.example.org/library"


@pytest.mark.parametrize(
    ("address", "url", "submodule_of"),
    [
        pytest.param("../library.git", None, None, id="one on the operator's disk"),
        pytest.param(HTTPS_LIBRARY, HTTPS_LIBRARY, None, id="one mirrored on the operator's disk"),
        pytest.param("../library", None, (), id="one that is kept for none"),
    ],
)
async def test_a_repository_of_this_machine_is_not_given_to_whoever_names_it(
    repository: GitRepository,
    library: GitRepository,
    wanted: str,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    address: str,
    url: str | None,
    submodule_of: tuple[str, ...] | None,
) -> None:
    """The name of a repository on the operator's disk can be guessed."""
    commit = add_module(repository, "lib", wanted, url=address)

    def checkout_with(submodule_of: tuple[str, ...] | None) -> Checkout:
        entry = RepositoryEntry(
            url or library.url,
            fetch_url=None if url is None else library.url,
            submodule_of=submodule_of,
        )
        return make_checkout(make_config(repository.url, entry))

    with pytest.raises(
        InfrastructureError, match=r"submodule lib .* add that url to its submodule_of"
    ):
        await source_of(checkout_with(submodule_of), repository, commit, target)
    await source_of(checkout_with((repository.url,)), repository, commit, target)
    assert contents(target)["lib/code"] == "1"


@pytest.mark.parametrize(
    "url", ["file:///etc", "/etc", "ext::touch {}/owned", "--upload-pack=touch {}/owned", "../.."]
)
async def test_addresses_that_every_replica_refuses(
    repository: GitRepository, both: Checkout, target: Path, tmp_path: Path, url: str
) -> None:
    """The same finding everywhere, whatever the operators list, and nothing is run."""
    repository.commit({"a": "x"})
    commit = add_module(repository, "lib", ELSEWHERE, url=url.format(tmp_path))
    assert "submodule lib" in await refusal_of(both, repository, commit, target)
    assert not (tmp_path / "owned").exists()


async def test_files_that_say_nothing_about_a_module(
    repository: GitRepository, both: Checkout, target: Path
) -> None:
    repository.commit({"a": "x"})
    never = '[submodule "m"]\n\tpath = lib\n\turl = ../library\n\tupdate = none\n'
    for text in ("", never):
        commit = add_module(repository, "lib", ELSEWHERE, text)
        await source_of(both, repository, commit, target)
        assert contents(target)["lib"] is None


@pytest.mark.parametrize("text", ["[submodule", "#" * 70_000, "link"])
async def test_files_that_are_none(
    repository: GitRepository, both: Checkout, target: Path, text: str
) -> None:
    """Without another repository in the tree nobody looks at them."""
    if text == "link":
        # git itself adds no such link
        blob = repository.git("hash-object", "-w", "--stdin", data=b"/etc/passwd")
        tree = repository.git(
            "mktree", "--missing", data=f"120000 blob {blob}\t.gitmodules\n".encode()
        )
        plain = repository.git("commit-tree", "-m", "link", tree)
        repository.git("update-ref", "refs/heads/main", plain)
    else:
        plain = repository.commit({"a": "x", ".gitmodules": text})
    found = await source_of(both, repository, plain, target)
    assert found.tree == target
    listed = repository.git("ls-tree", plain) + f"\n160000 commit {ELSEWHERE}\tlib\n"
    tree = repository.git("mktree", "--missing", data=listed.encode())
    commit = repository.git("commit-tree", "-m", "module", "-p", plain, tree)
    repository.git("update-ref", "refs/heads/main", commit)
    assert ".gitmodules" in await refusal_of(both, repository, commit, target)


async def test_a_file_that_includes_files_of_this_machine(
    repository: GitRepository, wanted: str, both: Checkout, target: Path, tmp_path: Path
) -> None:
    """They are not read: neither what they say counts, nor do they keep git waiting."""
    included = tmp_path / "included"
    included.write_text('[submodule "m"]\n\tpath = lib\n\turl = ../library\n')
    os.mkfifo(tmp_path / "pipe")
    text = "".join(
        f"[{section}]\n\tpath = {path}\n"
        for section in ("include", 'includeIf "gitdir:/"')
        for path in (included, tmp_path / "pipe", "/dev/zero")
    )
    commit = add_module(repository, "lib", wanted, text)
    found = await source_of(both, repository, commit, target)
    assert contents(target)["lib"] is None
    assert found.modules == ()


@pytest.mark.parametrize("levels", [4, 5])
async def test_modules_in_modules(
    tmp_path: Path,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    levels: int,
) -> None:
    repositories = [GitRepository(tmp_path / f"level{index}") for index in range(levels + 1)]
    commit = repositories[-1].commit({"file": "deep"})
    for index in reversed(range(levels)):
        repositories[index].commit({"file": str(index)})
        commit = add_module(repositories[index], "m", commit, url=f"../level{index + 1}")
    top = repositories[0].url
    entries = (RepositoryEntry(other.url, submodule_of=(top,)) for other in repositories[1:])
    checkout = make_checkout(make_config(top, *entries))
    found = await checkout.check_out(
        repositories[0].url, MAIN, commit, target=target, workspace_bytes=WORKSPACE_BYTES
    )
    assert isinstance(found, Source)
    if levels == 4:
        assert contents(target)["m/m/m/m/file"] == "deep"
    else:
        assert isinstance(found.tree, TreeRefused)
        assert "levels deep" in found.tree.problem


async def test_a_repository_that_contains_itself(
    repository: GitRepository, both: Checkout, target: Path
) -> None:
    """A commit cannot name itself, but one of its past: as deep as its history, so bounded."""
    commit = repository.commit({"a": "0"})
    for number in range(6):
        (repository.folder / ".gitmodules").unlink(missing_ok=True)
        commit = add_module(repository, "again", commit, url="./../repository")
        repository.git("tag", f"t{number}")
    assert await refusal_of(both, repository, commit, target)


async def test_very_many_modules(
    repository: GitRepository, wanted: str, both: Checkout, target: Path
) -> None:
    text = "".join(f'[submodule "{n}"]\n\tpath = m{n}\n\turl = ../library\n' for n in range(65))
    (repository.folder / ".gitmodules").write_text(text)
    repository.git("add", ".gitmodules")
    for number in range(64):
        repository.git("update-index", "--add", "--cacheinfo", f"160000,{wanted},m{number}")
    repository.git("commit", "--quiet", "--message=many")
    commit = repository.git("rev-parse", "HEAD")
    await source_of(both, repository, commit, target)
    assert len([name for name in contents(target) if name.endswith("/code")]) == 64
    commit = add_module(repository, "m64", wanted, "")
    assert "more than 64 submodules" in await refusal_of(both, repository, commit, target)


async def test_all_trees_together_fit_into_the_workspace(
    repository: GitRepository, library: GitRepository, both: Checkout, target: Path
) -> None:
    wanted = library.commit({"code": b"x" * 600_000})
    repository.commit({"a": b"x" * 600_000})
    commit = add_module(repository, "lib", wanted, url="../library")
    found = await both.check_out(
        repository.url, MAIN, commit, target=target, workspace_bytes=1_000_000
    )
    assert isinstance(found, Source)
    assert isinstance(found.tree, TreeRefused)
    found = await both.check_out(
        repository.url, MAIN, commit, target=target, workspace_bytes=1_300_000
    )
    assert isinstance(found, Source)
    assert found.tree == target


async def test_a_corrupt_mirror_of_a_module_is_made_anew(
    repository: GitRepository,
    library: GitRepository,
    wanted: str,
    both: Checkout,
    target: Path,
    tmp_path: Path,
) -> None:
    commit = add_module(repository, "lib", wanted, url="../library")
    await source_of(both, repository, commit, target)
    blob = library.git("rev-parse", f"{wanted}:code")
    for mirror in (tmp_path / "data" / "mirrors").iterdir():
        for file in mirror.glob(f"objects/{blob[:2]}/{blob[2:]}"):
            os.chmod(file, 0o600)
            file.write_bytes(b"nonsense")
            break
    await source_of(both, repository, commit, target)
    assert contents(target)["lib/code"] == "1"
