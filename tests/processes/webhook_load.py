"""Webhooks at a steady rate, signed as a forge signs them, and how long each waited for its answer.

By hand: `python -m tests.processes.webhook_load --rate 200 --seconds 10 --kill` starts a gateway
(with `--nodes` also four replicas), kills it half way, starts it again, prints what it measured.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.common.forges.deliveries import GITHUB_URL, SECRET, body_of, openssl_hmac
from tests.processes.network import CLIENT, ComparedNetwork, Network, ask, pipeline
from tests.secret_files import secret_file

ANSWER_SECONDS = 60.0
# A sender that had no answer tries again, as whoever runs the forge does by hand.
AGAIN_SECONDS = 0.2
AGAIN_MAX = 300
SIGNERS = 4


@dataclass(frozen=True)
class Webhook:
    """A push that GitHub would send, and its signature."""

    body: bytes
    signature: str


@dataclass(frozen=True)
class Sent:
    """What came of one webhook. latency_seconds: from when it was due to its first answer."""

    status: int
    build: str
    latency_seconds: float
    attempts: int


def make_webhooks(count: int) -> list[Webhook]:
    """That many pushes of different commits; openssl signs them, before the clock runs."""

    def make(number: int) -> Webhook:
        commit = f"{number + 1:040x}"
        body = body_of("github-push", {"after": commit, "head_commit.id": commit})
        return Webhook(body, f"sha256={openssl_hmac(SECRET, body).hex()}")

    with ThreadPoolExecutor(SIGNERS) as threads:
        return list(threads.map(make, range(count)))


def hook(network: Network, queue_max: int) -> None:
    """Let the gateway take these webhooks for its repository."""
    secret = secret_file(network.folder / "webhook-secret", SECRET)

    def change(settings: dict[str, Any]) -> None:
        settings["queue_max"] = queue_max
        entry = settings["repositories"][0]
        entry |= {"forge": "github", "aliases": [GITHUB_URL], "webhook_secret_file": str(secret)}
        entry["queue_max"] = queue_max

    network.rewrite(CLIENT, change)


async def send_at_rate(
    url: str,
    webhooks: Sequence[Webhook],
    per_second: float,
    half_way: Callable[[], None] = lambda: None,
) -> list[Sent]:
    """Send each when it is due, whether or not the others are answered, until all are.

    half_way: is called in a thread when half of them are due.
    """
    loop = asyncio.get_running_loop()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        begin = loop.time()
        tasks = []
        for number, webhook in enumerate(webhooks):
            due = begin + number / per_second
            await asyncio.sleep(max(0.0, due - loop.time()))
            tasks.append(asyncio.create_task(_send(session, url, webhook, due)))
            if number == len(webhooks) // 2:
                loop.run_in_executor(None, half_way)
        return list(await asyncio.gather(*tasks))


async def _send(session: aiohttp.ClientSession, url: str, webhook: Webhook, due: float) -> Sent:
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-Hub-Signature-256": webhook.signature,
    }
    for attempt in range(1, AGAIN_MAX + 1):
        try:
            async with session.post(url, data=webhook.body, headers=headers) as response:
                answer = await response.json()
                latency = asyncio.get_running_loop().time() - due
                return Sent(response.status, answer.get("build", ""), latency, attempt)
        except (aiohttp.ClientError, OSError, ValueError):
            await asyncio.sleep(AGAIN_SECONDS)
    return Sent(0, "", ANSWER_SECONDS, AGAIN_MAX)


def builds_of(network: ComparedNetwork) -> set[str]:
    """The ids of all builds that the gateway knows."""
    builds: set[str] = set()
    after = ""
    while True:
        page = ask(f"{network.gateway_url}/api/v1/builds?limit=100{after}").json()
        builds.update(build["id"] for build in page["builds"])
        if page["next"] is None:
            return builds
        after = f"&after={page['next']}"


def main() -> int:
    """Measure, and print it; 1 where a webhook was lost."""
    parser = argparse.ArgumentParser(description=__doc__, prog="tests.processes.webhook_load")
    parser.add_argument("--rate", type=float, default=200.0, help="webhooks per second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--kill", action="store_true", help="kill -9 the gateway half way")
    parser.add_argument("--nodes", action="store_true", help="with four replicas that order them")
    options = parser.parse_args()
    webhooks = make_webhooks(int(options.rate * options.seconds))
    with tempfile.TemporaryDirectory() as folder:
        branches = {"main": pipeline("true")}
        with Network(Path(folder) / "network", branches) as network:
            hook(network, queue_max=10 * len(webhooks))
            network.start(*(() if options.nodes else (CLIENT,)))

            def kill() -> None:
                network.kill(CLIENT)
                network.start(CLIENT)

            url = f"{network.gateway_url}/webHook"
            work = send_at_rate(url, webhooks, options.rate, kill if options.kill else lambda: None)
            begin = time.monotonic()
            sent = asyncio.run(work)
            seconds = time.monotonic() - begin
            known = builds_of(network)
    lost = {one.build for one in sent if one.build} - known
    # what was under way when the gateway was killed waited for its start
    latencies = sorted(one.latency_seconds for one in sent if one.attempts == 1)
    report = {
        "webhooks": len(sent),
        "per_second": round(len(sent) / seconds, 1),
        "answered_at_once": len(latencies),
        "sent_again": len(sent) - len(latencies),
        "statuses": sorted({one.status for one in sent}),
        "p50_ms": round(1000 * latencies[len(latencies) // 2], 1),
        "p99_ms": round(1000 * latencies[len(latencies) * 99 // 100], 1),
        "max_ms": round(1000 * latencies[-1], 1),
        "lost": len(lost),
    }
    print(json.dumps(report))  # noqa: T201 - what it is run for
    return 1 if lost or len(known) != len(webhooks) else 0


if __name__ == "__main__":
    sys.exit(main())
