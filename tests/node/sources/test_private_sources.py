"""Private repositories, against a real git over HTTPS and a real sshd: who gets in, who is told
what, and where the secrets are not."""

import asyncio
import itertools
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.gateway.resolve import FoundCommit, Resolution, Resolver, Unreachable
from common.configuration.config import RepositoryEntry
from node.sources.checkout import NotThere
from node.sources.mirror import Source
from node.work.infrastructure_error import InfrastructureError
from tests.node.conftest import WORKSPACE_BYTES, CheckoutMaker, ConfigMaker, GitRepository
from tests.node.git_servers import HttpsGitServer, SshServer, make_ssh_key
from tests.secret_files import secret_file

MAIN = "refs/heads/main"


@pytest.fixture
def token() -> str:
    return secrets.token_hex(20)


@pytest.fixture
def token_file(tmp_path: Path, token: str) -> Path:
    return secret_file(tmp_path / "token", token + "\n")


@pytest.fixture
def https(tmp_path: Path, token: str) -> Iterator[HttpsGitServer]:
    with HttpsGitServer(tmp_path / "https", tmp_path, token) as server:
        yield server


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[SshServer]:
    with SshServer(tmp_path / "sshd") as server:
        yield server


@pytest.fixture
def commit(repository: GitRepository) -> str:
    """The commit that all ask for."""
    return repository.commit({"a": "1"})


class Asker:
    """Asks for repositories as a node does, and as a gateway does."""

    def __init__(
        self, make_config: ConfigMaker, make_checkout: CheckoutMaker, target: Path, folder: Path
    ) -> None:
        self._make_config = make_config
        self._make_checkout = make_checkout
        self._target = target
        self._folder = folder

    async def check_out(
        self,
        *entries: RepositoryEntry,
        commit: str | None,
        reference: str = MAIN,
        **settings: object,
    ) -> Source | NotThere:
        """What a node has of the last of these entries."""
        checkout = self._make_checkout(self._make_config(*entries, **settings))
        return await checkout.check_out(
            entries[-1].url, reference, commit, target=self._target, workspace_bytes=WORKSPACE_BYTES
        )

    async def resolve(self, entry: RepositoryEntry) -> Resolution:
        """What a gateway finds out about the branch main."""
        resolver = Resolver((entry,), self._folder / "client-home")
        try:
            return await resolver.resolve(entry.url, "main")
        finally:
            resolver.close()


@pytest.fixture
def asker(
    make_config: ConfigMaker, make_checkout: CheckoutMaker, target: Path, tmp_path: Path
) -> Asker:
    return Asker(make_config, make_checkout, target, tmp_path)


def https_entry(
    server: HttpsGitServer, token_file: Path | None, *, is_authority_known: bool = True
) -> RepositoryEntry:
    """The repository at that server."""
    return RepositoryEntry(
        f"{server.url}/repository/.git",
        https_token_file=token_file,
        ca_file=server.ca_file if is_authority_known else None,
    )


def everything_in(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


def processes_with(text: str) -> list[tuple[str, bytes]]:
    """Name and value of each command line and environment on this machine that has the text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            for name in ("cmdline", "environ"):
                try:
                    data = (folder / name).read_bytes()
                except OSError:
                    # it ended, or is somebody else's
                    continue
                if text.encode() in data:
                    found.append((name, data))
    return found


async def test_https_with_a_token(
    https: HttpsGitServer, token: str, token_file: Path, commit: str, asker: Asker, tmp_path: Path
) -> None:
    entry = https_entry(https, token_file)
    seen: list[tuple[str, bytes]] = []
    at_work: list[tuple[str, bytes]] = []

    def look() -> None:
        # now git waits for this answer, and knows the token
        seen.extend(processes_with(token))
        at_work.extend(found for found in processes_with(entry.url) if found[0] == "cmdline")

    https.on_request = look
    assert isinstance(await asker.check_out(entry, commit=commit), Source)
    assert await asker.resolve(entry) == FoundCommit(commit)
    assert at_work, "git was never seen at work, so nothing was looked at"
    assert seen == [], "the token is in an argument or a variable of a process"
    assert any(value is not None for value in https.authorizations)
    kept = [path for path, data in everything_in(tmp_path / "data") if token.encode() in data]
    assert kept == []


@pytest.mark.parametrize("text", ["wrong\n", "\n", ""])
async def test_a_token_that_the_server_does_not_take(
    https: HttpsGitServer, commit: str, asker: Asker, tmp_path: Path, text: str
) -> None:
    """An infrastructure error, for a branch that is there as for one that is not."""
    wrong = secret_file(tmp_path / "wrong-token", text)
    entry = https_entry(https, wrong)
    words = f"did not accept https_token_file {wrong}"
    for reference, asked in itertools.product((MAIN, "refs/heads/nothing"), (commit, None)):
        with pytest.raises(InfrastructureError, match=words):
            await asker.check_out(entry, commit=asked, reference=reference)
    answer = await asker.resolve(entry)
    assert isinstance(answer, Unreachable)
    assert f"https_token_file {wrong}" in answer.reason


async def test_what_a_server_says_back_is_hidden(
    https: HttpsGitServer, commit: str, asker: Asker, tmp_path: Path
) -> None:
    """git prints the text of a refusal; a server may put in what it was given."""
    secret = secrets.token_hex(16)
    https.complaint = f"go away with {secret}".encode()
    wrong = secret_file(tmp_path / "wrong-token", secret)
    entry = https_entry(https, wrong)
    with pytest.raises(InfrastructureError, match=r"go away with \(hidden\)") as error:
        await asker.check_out(entry, commit=commit)
    assert secret not in error.value.reason
    answer = await asker.resolve(entry)
    assert isinstance(answer, Unreachable)
    assert secret not in answer.reason


@pytest.mark.parametrize(
    ("has_token", "is_authority_known", "status", "words"),
    [
        (False, True, None, "set https_token_file"),
        (True, False, None, "set ca_file"),
        *((True, True, status, "did not accept https_token_file") for status in (403, 404)),
        *((True, True, status, "the git server did not answer") for status in (500, 503)),
    ],
)
async def test_what_may_be_mended_is_no_permanent_error(
    https: HttpsGitServer,
    token_file: Path,
    commit: str,
    asker: Asker,
    *,
    has_token: bool,
    is_authority_known: bool,
    status: int | None,
    words: str,
) -> None:
    """No login, an unknown authority, and a server that does not answer the question."""
    entry = https_entry(
        https, token_file if has_token else None, is_authority_known=is_authority_known
    )
    https.status = status
    with pytest.raises(InfrastructureError, match=words) as error:
        await asker.check_out(entry, commit=commit)
    assert not error.value.is_permanent
    https.status = None
    mended = https_entry(https, token_file)
    assert isinstance(await asker.check_out(mended, commit=commit), Source)


async def test_a_token_goes_to_its_own_host_alone(
    https: HttpsGitServer, token: str, token_file: Path, commit: str, asker: Asker, tmp_path: Path
) -> None:
    """The same repository from another server: it asks for a login and gets none."""
    with HttpsGitServer(tmp_path / "other", tmp_path, token) as other:
        known = https_entry(https, token_file)
        unknown = https_entry(other, None)
        with pytest.raises(InfrastructureError, match="set https_token_file"):
            await asker.check_out(known, unknown, commit=commit)
        assert set(other.authorizations) == {None}


async def test_ssh_with_a_key(
    repository: GitRepository, sshd: SshServer, commit: str, asker: Asker, tmp_path: Path
) -> None:
    entry = RepositoryEntry(
        sshd.url(repository.folder),
        ssh_key_file=sshd.user_key_file,
        known_hosts_file=sshd.known_hosts_file,
    )
    assert isinstance(await asker.check_out(entry, commit=commit), Source)
    assert await asker.resolve(entry) == FoundCommit(commit)
    secret = sshd.user_key_file.read_text().splitlines()[2].encode()
    kept = [path for path, data in everything_in(tmp_path / "data") if secret in data]
    assert kept == []


async def test_ssh_with_wrong_files(
    repository: GitRepository, sshd: SshServer, commit: str, asker: Asker, tmp_path: Path
) -> None:
    other_key = make_ssh_key(tmp_path / "other")
    no_key = secret_file(tmp_path / "no-key", "this is no key\n")
    other_hosts = tmp_path / "other_hosts"
    other_hosts.write_text(f"[127.0.0.1]:{sshd.port} {other_key.with_suffix('.pub').read_text()}")
    no_hosts = tmp_path / "no_hosts"
    no_hosts.write_text("# nobody\n")
    cases = (
        (other_key, sshd.known_hosts_file, f"ssh_key_file {other_key}"),
        (no_key, sshd.known_hosts_file, f"ssh_key_file {no_key}"),
        (sshd.user_key_file, other_hosts, f"known_hosts_file {other_hosts}"),
        (sshd.user_key_file, no_hosts, f"known_hosts_file {no_hosts}"),
    )
    for (key, hosts, words), asked in itertools.product(cases, (commit, None)):
        entry = RepositoryEntry(
            sshd.url(repository.folder), ssh_key_file=key, known_hosts_file=hosts
        )
        with pytest.raises(InfrastructureError, match=words):
            await asker.check_out(entry, commit=asked)
    # nothing was learned on the way
    assert no_hosts.read_text() == "# nobody\n"


async def test_a_forge_that_is_slow_over_ssh_is_given_up_in_time(
    asker: Asker, tmp_path: Path
) -> None:
    """Somebody listens and says nothing: the time for checkouts ends it, ssh and all."""
    server = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    key = make_ssh_key(tmp_path / "key")
    hosts = tmp_path / "hosts"
    hosts.write_text("# nobody\n")
    url = f"ssh://git@127.0.0.1:{port}/r.git"
    entry = RepositoryEntry(url, ssh_key_file=key, known_hosts_file=hosts)
    with pytest.raises(InfrastructureError, match="1 s"):
        await asker.check_out(entry, commit="a" * 40, checkout_timeout_seconds=1)
    assert [found for found in processes_with(str(key)) if found[0] == "cmdline"] == []
    server.close()
