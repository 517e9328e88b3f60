"""An aiohttp handler that commits one row to SQLite and answers 202: what a webhook costs at least.

`python -m bench.one_row_server --port 12345 --file FILE`. It reads the body, and its row is on disk
(WAL, synchronous=FULL, as the product's) when it answers. It checks nothing.
"""

import argparse
import sqlite3
import sys

import uvloop
from aiohttp import web

HOST = "127.0.0.1"


class OneRowServer:
    """The handler and its file."""

    def __init__(self, file: str) -> None:
        self._database = sqlite3.connect(file, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS outbox (number INTEGER PRIMARY KEY, body BLOB NOT NULL)"
        )

    async def post(self, request: web.Request) -> web.Response:
        """POST /webHook."""
        body = await request.read()
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("INSERT INTO outbox (body) VALUES (?)", (body,))
        self._database.execute("COMMIT")
        return web.json_response({"status": "accepted"}, status=202)

    async def health(self, request: web.Request) -> web.Response:
        """GET /healthz."""
        return web.Response(text="ok\n")


def main(arguments: list[str]) -> int:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m bench.one_row_server")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file", required=True)
    options = parser.parse_args(arguments)
    uvloop.install()
    server = OneRowServer(options.file)
    application = web.Application()
    application.router.add_post("/webHook", server.post)
    application.router.add_get("/healthz", server.health)
    web.run_app(application, host=HOST, port=options.port, access_log=None, print=None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
