"""Private repositories, against a real git over HTTPS and a real sshd: who gets in, who is told
what, and where the secrets are not."""

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.gateway.resolve import FoundCommit, Resolver, Unreachable
from common.configuration.config import RepositoryEntry
from node.sources.mirror import Source
from node.work.infrastructure_error import InfrastructureError
from tests.node.conftest import CheckoutMaker, ConfigMaker, GitRepository
from tests.node.git_servers import HttpsGitServer, SshServer, make_ssh_key

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


def secret_file(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o600)
    return file


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
    repository: GitRepository,
    https: HttpsGitServer,
    token: str,
    token_file: Path,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
) -> None:
    commit = repository.commit({"a": "1"})
    url = f"{https.url}/repository/.git"
    entry = RepositoryEntry(url, https_token_file=token_file, ca_file=https.ca_file)
    seen: list[tuple[str, bytes]] = []
    at_work: list[tuple[str, bytes]] = []

    def look() -> None:
        # now git waits for this answer, and knows the token
        seen.extend(processes_with(token))
        at_work.extend(found for found in processes_with(url) if found[0] == "cmdline")

    https.on_request = look
    checkout = make_checkout(make_config(entry))
    assert isinstance(await checkout.check_out(url, MAIN, commit, target), Source)
    resolver = Resolver((entry,), tmp_path / "client-home")
    assert await resolver.resolve(url, "main") == FoundCommit(commit)
    resolver.close()
    assert at_work, "git was never seen at work, so nothing was looked at"
    assert seen == [], "the token is in an argument or a variable of a process"
    assert any(value is not None for value in https.authorizations)
    kept = [path for path, data in everything_in(tmp_path / "data") if token.encode() in data]
    assert kept == []


@pytest.mark.parametrize("text", ["wrong\n", "\n", ""])
async def test_a_token_that_the_server_does_not_take(
    repository: GitRepository,
    https: HttpsGitServer,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
    text: str,
) -> None:
    """An infrastructure error, for a branch that is there as for one that is not."""
    commit = repository.commit({"a": "1"})
    url = f"{https.url}/repository/.git"
    wrong = secret_file(tmp_path / "wrong-token", text)
    entry = RepositoryEntry(url, https_token_file=wrong, ca_file=https.ca_file)
    checkout = make_checkout(make_config(entry))
    for reference in (MAIN, "refs/heads/nothing"):
        for asked in (commit, None):
            with pytest.raises(
                InfrastructureError, match=f"did not accept https_token_file {wrong}"
            ):
                await checkout.check_out(url, reference, asked, target)
    resolver = Resolver((entry,), tmp_path / "client-home")
    answer = await resolver.resolve(url, "main")
    resolver.close()
    assert isinstance(answer, Unreachable)
    assert f"https_token_file {wrong}" in answer.reason


async def test_what_a_server_says_back_is_hidden(
    repository: GitRepository,
    https: HttpsGitServer,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
) -> None:
    """git prints the text of a refusal; a server may put in what it was given."""
    commit = repository.commit({"a": "1"})
    url = f"{https.url}/repository/.git"
    secret = secrets.token_hex(16)
    https.complaint = f"go away with {secret}".encode()
    wrong = secret_file(tmp_path / "wrong-token", secret)
    entry = RepositoryEntry(url, https_token_file=wrong, ca_file=https.ca_file)
    with pytest.raises(InfrastructureError, match=r"go away with \(hidden\)") as error:
        await make_checkout(make_config(entry)).check_out(url, MAIN, commit, target)
    assert secret not in error.value.reason
    resolver = Resolver((entry,), tmp_path / "client-home")
    answer = await resolver.resolve(url, "main")
    resolver.close()
    assert isinstance(answer, Unreachable)
    assert secret not in answer.reason


async def test_the_words_for_no_login_and_for_an_unknown_authority(
    repository: GitRepository,
    https: HttpsGitServer,
    token_file: Path,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
) -> None:
    commit = repository.commit({"a": "1"})
    url = f"{https.url}/repository/.git"
    cases = {
        RepositoryEntry(url, ca_file=https.ca_file): "set https_token_file",
        RepositoryEntry(url, https_token_file=token_file): "set ca_file",
    }
    for entry, words in cases.items():
        with pytest.raises(InfrastructureError, match=words) as error:
            await make_checkout(make_config(entry)).check_out(url, MAIN, commit, target)
        assert not error.value.is_permanent


@pytest.mark.parametrize("status", [403, 404, 500, 503])
async def test_a_server_that_does_not_answer_the_question(
    repository: GitRepository,
    https: HttpsGitServer,
    token_file: Path,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    status: int,
) -> None:
    commit = repository.commit({"a": "1"})
    url = f"{https.url}/repository/.git"
    entry = RepositoryEntry(url, https_token_file=token_file, ca_file=https.ca_file)
    checkout = make_checkout(make_config(entry))
    https.status = status
    with pytest.raises(InfrastructureError) as error:
        await checkout.check_out(url, MAIN, commit, target)
    assert not error.value.is_permanent
    https.status = None
    assert isinstance(await checkout.check_out(url, MAIN, commit, target), Source)


async def test_a_token_goes_to_its_own_host_alone(
    repository: GitRepository,
    https: HttpsGitServer,
    token: str,
    token_file: Path,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
) -> None:
    """The same repository from another server: it asks for a login and gets none."""
    commit = repository.commit({"a": "1"})
    with HttpsGitServer(tmp_path / "other", tmp_path, token) as other:
        entries = (
            RepositoryEntry(
                f"{https.url}/repository/.git", https_token_file=token_file, ca_file=https.ca_file
            ),
            RepositoryEntry(f"{other.url}/repository/.git", ca_file=other.ca_file),
        )
        checkout = make_checkout(make_config(*entries))
        with pytest.raises(InfrastructureError, match="set https_token_file"):
            await checkout.check_out(entries[1].url, MAIN, commit, target)
        assert set(other.authorizations) == {None}


async def test_ssh_with_a_key(
    repository: GitRepository,
    sshd: SshServer,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
) -> None:
    commit = repository.commit({"a": "1"})
    url = sshd.url(repository.folder)
    entry = RepositoryEntry(
        url, ssh_key_file=sshd.user_key_file, known_hosts_file=sshd.known_hosts_file
    )
    checkout = make_checkout(make_config(entry))
    assert isinstance(await checkout.check_out(url, MAIN, commit, target), Source)
    resolver = Resolver((entry,), tmp_path / "client-home")
    assert await resolver.resolve(url, "main") == FoundCommit(commit)
    resolver.close()
    secret = sshd.user_key_file.read_text().splitlines()[2].encode()
    kept = [path for path, data in everything_in(tmp_path / "data") if secret in data]
    assert kept == []


async def test_ssh_with_wrong_files(
    repository: GitRepository,
    sshd: SshServer,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
) -> None:
    commit = repository.commit({"a": "1"})
    url = sshd.url(repository.folder)
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
    for key, hosts, words in cases:
        entry = RepositoryEntry(url, ssh_key_file=key, known_hosts_file=hosts)
        checkout = make_checkout(make_config(entry))
        for asked in (commit, None):
            with pytest.raises(InfrastructureError, match=words):
                await checkout.check_out(url, MAIN, asked, target)
    # nothing was learned on the way
    assert no_hosts.read_text() == "# nobody\n"


async def test_a_forge_that_is_slow_over_ssh_is_given_up_in_time(
    repository: GitRepository,
    make_config: ConfigMaker,
    make_checkout: CheckoutMaker,
    target: Path,
    tmp_path: Path,
) -> None:
    """Somebody listens and says nothing: the time for checkouts ends it, ssh and all."""
    server = await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    key = make_ssh_key(tmp_path / "key")
    hosts = tmp_path / "hosts"
    hosts.write_text("# nobody\n")
    url = f"ssh://git@127.0.0.1:{port}/r.git"
    entry = RepositoryEntry(url, ssh_key_file=key, known_hosts_file=hosts)
    checkout = make_checkout(make_config(entry, checkout_timeout_seconds=1))
    with pytest.raises(InfrastructureError, match="1 s"):
        await checkout.check_out(url, MAIN, "a" * 40, target)
    assert [found for found in processes_with(str(key)) if found[0] == "cmdline"] == []
    server.close()
