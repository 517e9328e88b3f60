"""Synthetic packages of realistic sizes, their lock files, and a server that has them.

The server answers in threads of this process: an index of Python packages below /pip, a registry
of npm below /npm.
"""

import base64
import gzip
import hashlib
import http.server
import io
import json
import random
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_LINE_BYTES = 40


def python_packages(count: int, size: int) -> tuple[dict[str, bytes], str]:
    """Files by path for a mirror: wheels of about so many bytes; and their lock file."""
    files: dict[str, bytes] = {}
    lines = []
    for number in range(count):
        name = f"bench{number}"
        about = f"{name}-1.0.dist-info"
        content = {
            f"{name}/__init__.py": _text(number, size, "#"),
            f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        content[f"{about}/RECORD"] = "".join(
            f"{file},,\n" for file in (*content, about + "/RECORD")
        )
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, text in content.items():
                archive.writestr(file, text)
        served, line = python_entry(f"{name}-1.0-py3-none-any.whl", made.getvalue())
        files |= served
        lines.append(line)
    return files, "".join(lines)


def python_entry(file: str, data: bytes) -> tuple[dict[str, bytes], str]:
    """What a mirror serves for a wheel: its page and itself; and the line of a lock file."""
    name, version = file.split("-")[:2]
    digest = hashlib.sha256(data).hexdigest()
    page = f'<!DOCTYPE html><a href="{file}#sha256={digest}">{file}</a>'.encode()
    served = {f"/pip/{name}/": page, f"/pip/{name}/{file}": data}
    return served, f"{name}=={version} --hash=sha256:{digest}\n"


def npm_packages(count: int, size: int, registry: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files by path for a mirror: tarballs of about so many bytes; and the files of a project.

    registry: what the lock file says of where they are.
    """
    files: dict[str, bytes] = {}
    locked: dict[str, object] = {}
    wanted = {}
    for number in range(count):
        name = f"bench{number}"
        content = {
            "package/package.json": json.dumps({"name": name, "version": "1.0.0"}),
            "package/index.js": _text(number, size, "//"),
        }
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            for file, text in content.items():
                header = tarfile.TarInfo(file)
                header.size = len(text)
                archive.addfile(header, io.BytesIO(text.encode()))
        data = gzip.compress(made.getvalue(), mtime=0)
        path = f"/npm/{name}/-/{name}-1.0.0.tgz"
        files[path] = data
        wanted[name] = "1.0.0"
        locked[f"node_modules/{name}"] = {
            "version": "1.0.0",
            "resolved": registry + path.removeprefix("/npm"),
            "integrity": "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode(),
        }
    root = {"name": "bench", "version": "1.0.0", "dependencies": wanted}
    lock = {**root, "lockfileVersion": 3, "requires": True, "packages": {"": root, **locked}}
    return files, {"package.json": json.dumps(root), "package-lock.json": json.dumps(lock)}


def _text(number: int, size: int, comment: str) -> str:
    """Lines of comments that pack to about so many bytes."""
    chance = random.Random(number)  # noqa: S311 - equal in each run
    lines = (
        f"{comment} {chance.randbytes(_LINE_BYTES).hex()}\n" for _ in range(size // _LINE_BYTES)
    )
    return "".join(lines)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # With the library's 5 the kernel drops some of 16 connections made at once. Each is tried again
    # after a second, and that second would be measured. Public servers have some hundred places.
    request_queue_size = 128


@contextmanager
def package_mirror(files: Mapping[str, bytes]) -> Iterator[str]:
    """A server of these files; its address. It reads them at each request, so they may change."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # headers and a small body in one packet, so that nobody waits for an acknowledgement
        wbufsize = -1

        def do_GET(self) -> None:
            data = files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            kind = "text/html" if self.path.endswith("/") else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            """Nobody reads it."""

    server = _Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
