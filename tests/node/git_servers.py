"""Real git servers that want a login: git over HTTPS with a token, git over ssh with a key.

Each is a process or a thread of its own on 127.0.0.1, with keys and certificates made here.
"""

import base64
import contextlib
import getpass
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from scripts.folders import ROOT
from scripts.free_ports import free_ports
from tests.waiting import block_until

HOST = "127.0.0.1"
START_SECONDS = 30.0
PROGRAM_SECONDS = 60
# where `scripts/test.sh` unpacks it: nothing is installed, so no server starts by itself
UNPACKED_SSHD = ROOT / "run" / "sshd"


def run(*command: str, **more: object) -> bytes:
    """What a program says; it must end well."""
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        timeout=PROGRAM_SECONDS,
        **more,  # type: ignore[call-overload]
    )
    output: bytes = done.stdout
    return output


def self_signed(folder: Path, name: str = f"IP:{HOST}") -> tuple[Path, Path]:
    """A certificate that signs itself, for HOST or another subjectAltName, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, and a server of TLS needs a certificate")
    certificate, key = folder / "ca.pem", folder / "server.key"
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "3", "-subj", "/CN=test", "-addext", f"subjectAltName={name}"),
        *("-keyout", str(key), "-out", str(certificate)),
    )
    return certificate, key


class HttpsGitServer:
    """git's own http-backend behind TLS and a login, for the repositories in a folder."""

    def __init__(
        self,
        folder: Path,
        project_root: Path,
        token: str | None,
        user: str = "git",
        listening: tuple[socket.socket, str] | None = None,
    ) -> None:
        """folder: for the certificate. A repository is at /NAME below project_root.

        token: None lets everybody in. listening: a socket of another machine, and its DNS name.
        """
        folder.mkdir()
        self.ca_file, key_file = (
            self_signed(folder) if listening is None else self_signed(folder, f"DNS:{listening[1]}")
        )
        self.authorizations: list[str | None] = []
        # called in the middle of each request that was let in
        self.on_request: Callable[[], None] = lambda: None
        # an answer instead of the repository
        self.status: int | None = None
        # whether it speaks the first version of git's protocol alone
        self.is_old = False
        # what is said beside a refusal
        self.complaint = b""
        self._expected = None
        if token is not None:
            self._expected = "Basic " + base64.b64encode(f"{user}:{token}".encode()).decode()
        self._project_root = project_root
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            do_POST = do_GET  # noqa: N815 (the base class's name)

            def log_message(self, *_: object) -> None:
                """Nothing: the tests say what went wrong."""

        if listening is None:
            self._server = ThreadingHTTPServer((HOST, 0), Handler)
        else:
            self._server = ThreadingHTTPServer((HOST, 0), Handler, bind_and_activate=False)
            self._server.socket.close()
            self._server.socket = listening[0]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, key_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request: 401 without the right login, else what http-backend says."""
        authorization = request.headers.get("Authorization")
        self.authorizations.append(authorization)
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        if authorization != self._expected:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="test"')
            request.send_header("Content-Type", "text/plain")
            request.send_header("Content-Length", str(len(self.complaint)))
            request.end_headers()
            request.wfile.write(self.complaint)
            return
        self.on_request()
        if self.status is not None:
            request.send_error(self.status)
            return
        path, _, query = request.path.partition("?")
        output = run(
            *("git", "http-backend"),
            input=body,
            env={
                **{key: os.environ[key] for key in ("PATH",) if key in os.environ},
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_CONFIG_GLOBAL": "/dev/null",
                # whoever owns the files of a test
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "GIT_PROJECT_ROOT": str(self._project_root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": request.command,
                "CONTENT_TYPE": request.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": "" if self.is_old else request.headers.get("Git-Protocol", ""),
                "REMOTE_USER": "user",
            },
        )
        head, _, content = output.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        request.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)


def find_sshd() -> Path:
    """The program sshd: of this machine, or unpacked for the tests; else the test is skipped."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    candidates = [UNPACKED_SSHD / "usr" / "sbin" / "sshd"]
    if found is not None:
        candidates.insert(0, Path(found))
    for candidate in candidates:
        if candidate.exists():
            return candidate
    pytest.skip("sshd is not here: `./scripts/test.sh` unpacks Debian's openssh-server")


class SshServer:
    """sshd as a process of its own, for one key of the user who runs the tests."""

    def __init__(self, folder: Path, **more: str) -> None:
        """folder: for keys and configuration; made here. more: settings of sshd_config."""
        self._program = find_sshd()
        self.folder = folder
        folder.mkdir()
        (self.port,) = free_ports(1)
        self.user_key_file = make_ssh_key(folder / "user")
        host_key_file = make_ssh_key(folder / "host")
        host_key = host_key_file.with_suffix(".pub").read_text()
        self.known_hosts_file = folder / "known_hosts"
        self.known_hosts_file.write_text(f"[{HOST}]:{self.port} {host_key}")
        settings = {
            "ListenAddress": HOST,
            "Port": str(self.port),
            "HostKey": str(host_key_file),
            "AuthorizedKeysFile": f"{self.user_key_file}.pub",
            "PidFile": "none",
            "UsePAM": "no",
            # the folders of tests belong to anybody
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "AcceptEnv": "GIT_PROTOCOL",
            **more,
        }
        self._settings_file = folder / "sshd_config"
        self._settings_file.write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, repository: Path) -> str:
        """Where a folder of this machine is through the server."""
        return f"ssh://{getpass.getuser()}@{HOST}:{self.port}{repository}"

    def __enter__(self) -> Self:
        libraries = ":".join(str(path) for path in UNPACKED_SSHD.glob("usr/lib/*/"))
        command = [str(self._program), "-D", "-e", "-f", str(self._settings_file)]
        if os.getuid() == 0:
            # As root it wants a user and a folder of its own, which a machine that does not serve
            # ssh lacks: they are there in a mount namespace that only this process sees.
            passwd = self.folder / "passwd"
            text = Path("/etc/passwd").read_text()
            if "\nsshd:" not in text:
                text = text.rstrip("\n") + "\nsshd:x:65534:65534::/run/sshd:/usr/sbin/nologin\n"
            passwd.write_text(text)
            script = (
                f"set -e; mount --bind '{passwd}' /etc/passwd; mount -t tmpfs -o mode=0755 none"
                ' /run; mkdir -m 0755 /run/sshd; exec "$0" "$@"'
            )
            command = ["unshare", "--mount", "sh", "-c", script, *command]
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LD_LIBRARY_PATH": libraries},
            )
        try:
            block_until(self._listens, "sshd listens", START_SECONDS)
        except BaseException as error:
            error.add_note((self.folder / "log").read_text())
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(START_SECONDS)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
            return True
        return False


def make_ssh_key(file: Path) -> Path:
    """A new key pair without a passphrase: the file, and the file with .pub behind its name."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh is not installed")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(file))
    return file
