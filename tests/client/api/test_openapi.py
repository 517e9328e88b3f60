"""The API's description is of the API there is: the same routes, and schemathesis finds no lie."""

import asyncio
import re
import sys
from pathlib import Path

from client.api.openapi import PATH, ROUTES, document
from tests.client.running_network import Running
from tests.client.site import client_of

# Pages for people, and what only a page asks for.
PAGES = re.compile(
    r"/|/builds(/.*)?|/replicas.*|/ledger|/tests(/.*)?|/branches|/queue|/trends|/audit|/commits/.*|/static/.*|/events|/webhook"
)
EXAMPLES = 5
SECONDS_MAX = 500


async def test_it_lists_the_routes_that_there_are(running: Running, tmp_path: Path) -> None:
    client = await client_of(running, tmp_path)
    served = set()
    for route in client.app.router.routes():
        assert route.resource is not None
        path = re.sub(r"\{(\w+):[^{}]*\}", r"{\1}", route.resource.canonical)
        if route.method != "HEAD" and not PAGES.fullmatch(path):
            served.add((route.method.lower(), path))
    assert served == {(route.method, route.path) for route in ROUTES}
    await client.close()


def test_every_reference_leads_somewhere() -> None:
    made = document("1", "http://localhost:8080")
    schemas = made["components"]["schemas"]
    found = set(re.findall(r"#/components/schemas/(\w+)", str(made)))
    assert {"BuildView", "BuildPage", "Accepted", "Error"} <= found <= set(schemas)


async def test_schemathesis_finds_nothing_that_is_not_as_described(
    running: Running, tmp_path: Path
) -> None:
    """Statuses, content types and schemas of generated and of broken requests, no 5xx of ours."""
    client = await client_of(running, tmp_path)
    for branch in ("master", "feature"):
        await client.post("/webHook", json={"branch": branch})
    url = str(client.server.make_url(PATH))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", url,
        "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color",
        "--exclude-path-regex", "/events$|^/readyz$",  # does not end; 503 is an answer here
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
        "response_schema_conformance",
        "--phases", "examples,coverage,fuzzing", "--request-timeout", "60",
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    assert process.returncode == 0, output.decode()[-6000:]
    await client.close()
