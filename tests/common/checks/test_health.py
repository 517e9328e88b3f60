"""What `healthcheck` says of a program that runs, is not ready, or is not there."""

import argparse
import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from common.checks.health import READY_PATH, add_healthcheck
from common.config_error import ConfigError
from common.web.bounded_http import HttpRequest
from scripts.free_ports import free_ports


def healthcheck(url: str) -> int:
    """Its exit code for the program there."""
    return run(lambda file: HttpRequest(url=url + READY_PATH))


def run(find: object) -> int:
    parser = argparse.ArgumentParser()
    default = Path("node.yml")
    add_healthcheck(parser.add_subparsers(), "node", find, default_config=default)  # type: ignore[arg-type]
    options = parser.parse_args(["healthcheck", "--config", "file.yml"])
    return int(options.run(options))


@pytest.fixture(params=[200, 503])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A program that answers with that status, in a thread."""
    status: int = request.param
    (port,) = free_ports(1)
    loop = asyncio.new_event_loop()

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"ready": status == 200}, status=status)

    async def start() -> web.AppRunner:
        application = web.Application()
        application.router.add_get(READY_PATH, answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield f"http://127.0.0.1:{port}", status
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(runner.cleanup())
    loop.close()


def test_it_repeats_what_the_program_says(
    served: tuple[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    url, status = served
    assert healthcheck(url) == (0 if status == 200 else 1)
    assert capsys.readouterr().out == (
        '{"ready": true}\n' if status == 200 else '{"ready": false}\n'
    )


def test_nobody_there_is_not_ready(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert healthcheck(f"http://127.0.0.1:{port}") == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_a_wrong_configuration_is_not_ready_either(capsys: pytest.CaptureFixture[str]) -> None:
    """Docker keeps the exit code that a wrong configuration has elsewhere for itself."""

    def find(file: Path) -> HttpRequest:
        raise ConfigError(f"{file}: is wrong")

    assert run(find) == 1
    assert capsys.readouterr().out == "file.yml: is wrong\n"
