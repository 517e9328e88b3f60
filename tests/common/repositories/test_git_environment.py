"""What git is told, and the grammar of URLs, against git itself."""

import subprocess
from pathlib import Path

import pytest

from common.repositories.git_environment import git_environment, is_foreign_variable, protocol_of


def run_git(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["git", *arguments],
        # of no repository
        cwd="/",
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "source"
    environment = git_environment(["file"], tmp_path)
    assert run_git(environment, "init", "--quiet", str(folder)).returncode == 0
    made = run_git(
        environment,
        *("-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"),
        *("commit", "--quiet", "--allow-empty", "--message=x"),
    )
    assert made.returncode == 0
    return folder


def test_a_protocol_that_is_named_works(source: Path, tmp_path: Path) -> None:
    environment = git_environment(["file"], tmp_path)
    assert run_git(environment, "ls-remote", f"file://{source}").returncode == 0


@pytest.mark.parametrize("protocols", [[], ["https"], ["https", "ssh"]])
@pytest.mark.parametrize("url", ["file://{}", "{}", "ext::sh -c 'touch {}/owned'"])
def test_a_protocol_that_is_not_named_is_refused_by_git(
    source: Path, tmp_path: Path, protocols: list[str], url: str
) -> None:
    environment = git_environment(protocols, tmp_path)
    answer = run_git(environment, "ls-remote", "--", url.format(source))
    assert answer.returncode != 0
    assert "not allowed" in answer.stderr
    assert not (source / "owned").exists()


def test_configuration_of_the_machine_does_not_count(source: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text('[url "https://elsewhere.invalid/"]\n\tinsteadOf = file://\n')
    environment = git_environment(["file"], home)
    assert run_git(environment, "ls-remote", f"file://{source}").returncode == 0
    listed = run_git(environment, "config", "--list", "--show-origin").stdout
    assert {line.partition("\t")[0] for line in listed.splitlines()} <= {"command line:"}
    assert "core.hookspath=/dev/null" in listed
    assert "transfer.fsckobjects=true" in listed


def test_a_password_in_a_url_is_refused(tmp_path: Path) -> None:
    environment = git_environment(["https"], tmp_path)
    answer = run_git(environment, "ls-remote", "--", "https://user:secret@127.0.0.1:1/x")
    assert answer.returncode != 0
    assert "plaintext credentials" in answer.stderr
    assert "secret" not in answer.stderr


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("https://example.org/a.git", "https"),
        ("http://127.0.0.1:3000/a", "http"),
        ("ssh://git@example.org/a", "ssh"),
        ("git@example.org:a/b.git", "ssh"),
        ("example.org:a", "ssh"),
        ("git://example.org/a", "git"),
        ("file:///a/b", "file"),
        ("/a/b", "file"),
    ],
)
def test_protocols(url: str, protocol: str) -> None:
    assert protocol_of(url) == protocol


@pytest.mark.parametrize(
    "url",
    [
        "",
        "-uhttps://example.org",
        "--upload-pack=touch /x",
        "ext::sh -c id",
        "fd::3",
        "ext::id",
        "ftp://example.org/a",
        "HTTPS",
        "https://example.org/a b",
        "https://example.org/\na",
        "https://example.org/\x00",
        "-oProxyCommand=x:y",
        "../relative",
        "https://[::1/a",
        "x" * 2000,
    ],
)
def test_urls_that_git_is_never_given(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        protocol_of(url)


def test_variables_that_would_steer_git() -> None:
    assert is_foreign_variable("GIT_DIR")
    assert is_foreign_variable("GIT_SSL_NO_VERIFY")
    assert not is_foreign_variable("GIT_SSL_CAINFO")
    assert not is_foreign_variable("GIT_PYTHON_GIT_EXECUTABLE")
    assert not is_foreign_variable("PATH")


@pytest.mark.parametrize("name", ["gitmodulesUrl", "zeroPaddedFilemode", "hasDotdot"])
def test_what_git_would_refuse_for_its_past_is_taken(tmp_path: Path, name: str) -> None:
    """Old projects have such objects; what is built of them is checked apart, by our own rules."""
    source = tmp_path / "source"
    environment = git_environment(["file"], tmp_path)
    assert run_git(environment, "init", "--quiet", str(source)).returncode == 0

    def write(kind: str, data: bytes) -> str:
        made = subprocess.run(
            ["git", "hash-object", "-t", kind, "-w", "--literally", "--stdin"],
            cwd=source,
            input=data,
            check=True,
            capture_output=True,
        )
        return made.stdout.decode().strip()

    url = "--upload-pack=touch owned"
    module = f'[submodule "m"]\n\tpath = m\n\turl = {url}\n'
    blob = write("blob", module.encode())
    entry = {
        "gitmodulesUrl": b"100644 .gitmodules",
        "zeroPaddedFilemode": b"0100644 a",
        "hasDotdot": b"100644 ..",
    }[name]
    tree = write("tree", entry + b"\0" + bytes.fromhex(blob))
    person = b"a <a@example.org> 1 +0000"
    text = b"tree %s\nauthor %s\ncommitter %s\n\nx\n" % (tree.encode(), person, person)
    commit = write("commit", text)
    assert run_git(environment, "-C", str(source), "update-ref", "refs/heads/x", commit)
    target = tmp_path / "target"
    assert run_git(environment, "init", "--quiet", "--bare", str(target)).returncode == 0
    fetched = run_git(
        environment, "-C", str(target), "fetch", f"file://{source}", "+refs/heads/x:refs/heads/x"
    )
    assert fetched.returncode == 0, fetched.stderr
    # the rest is still checked
    broken = write("commit", text.replace(b"author a <", b"author a "))
    run_git(environment, "-C", str(source), "update-ref", "refs/heads/y", broken)
    fetched = run_git(
        environment, "-C", str(target), "fetch", f"file://{source}", "+refs/heads/y:refs/heads/y"
    )
    assert fetched.returncode != 0
