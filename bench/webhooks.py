"""Signed push webhooks, as GitHub sends them, at a fixed rate; and how long their 202 takes.

The rate is kept whatever the answers take (an open loop), and a latency counts from when its
webhook was due: a server that stalls is charged for all that waited meanwhile.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import time

import aiohttp

from bench.network import BenchFailed

ANSWER_SECONDS = 30.0
CONNECTIONS = 32


def push_webhook(
    url: str, branch: str, commit: str, *, secret: bytes
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a push of that commit to that branch of the repository with that URL."""
    body = json.dumps(
        {
            "ref": f"refs/heads/{branch}",
            "before": "0" * 40,
            "after": commit,
            "repository": {"id": 1, "full_name": "bench/bench", "clone_url": url},
            "pusher": {"name": "bench", "email": "bench@pbft-ci.invalid"},
            "head_commit": {"id": commit, "message": "A change", "added": [], "removed": []},
        }
    ).encode()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": secrets.token_hex(16),
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest(),
    }
    return body, headers


async def post_at_rate(
    address: str, webhooks: list[tuple[bytes, dict[str, str]]], per_second: float
) -> list[float]:
    """POST all of them, so many a second; the latency of each 202, in seconds. Raises BenchFailed.

    address: of the server, without a slash at the end.
    """
    # not the loop's clock: uvloop's knows whole milliseconds only
    began = time.monotonic() + 0.05

    async def post(number: int, session: aiohttp.ClientSession) -> float:
        due = began + number / per_second
        await asyncio.sleep(due - time.monotonic())
        body, headers = webhooks[number]
        async with session.post(f"{address}/webHook", data=body, headers=headers) as response:
            text = await response.read()
            if response.status != 202:
                raise BenchFailed(f"{address}/webHook: {response.status} {text[:300]!r}")
        return time.monotonic() - due

    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        try:
            return await asyncio.gather(*(post(n, session) for n in range(len(webhooks))))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BenchFailed(f"{address}/webHook: {type(error).__name__} {error}") from error
