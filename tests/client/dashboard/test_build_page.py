"""client.dashboard.build_page: one build, what each replica found and said, and its logs."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp.test_utils import TestClient, TestServer

from ci.builds import OpenBuild
from ci.operations import Abstain, Ballot, BuildResult, Event, Outcome, Step
from client.dashboard.build_page import replica_columns
from client.gateway.resolve import Unreachable
from client.serve import make_application
from client.storage.archive import ReplyRecord
from client.storage.build_request import BuildRequest
from client.views.build_view import build_view
from common.configuration.config import GatewayRepository
from common.forge_words import forge_words
from common.git_commits import commit_id, read_commits
from tests.ci.builders import COMMIT, FAILED, GATEWAY, PASSED, PIPELINE_SHA256, artifact, finding
from tests.client.api.test_change_routes import open_build
from tests.client.dashboard.pages import page
from tests.client.gateway.test_build_changes import nobody_finishes
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, FixedResolver, Network, Running, run_gateway
from tests.client.site import Client, client_of, decided_build, site_of
from tests.client.views.test_build_view import decided, record
from tests.common.test_git_commits import chain, packed


def finds(ballot: Ballot, log: bytes) -> Callable[[OpenBuild], tuple[Ballot, bytes]]:
    """What a node finds of every build: this, with this log."""
    return lambda build: (ballot, log)


def with_log(found: BuildResult, log: bytes) -> BuildResult:
    """The finding with the evidence of that log."""
    evidence = msgspec.structs.replace(
        found.evidence, log_sha256=hashlib.sha256(log).hexdigest(), log_bytes=len(log)
    )
    return msgspec.structs.replace(found, evidence=evidence)


def words_of(markup: str) -> str:
    """The text of some markup, as it is read."""
    return " ".join(re.sub(r"<[^>]*>", " ", markup).split())


def column_of(text: str, replica: str) -> str:
    """What a build's page says of one replica."""
    found = re.search(rf'<article [^>]*data-key="{replica}".*?</article>', text, re.DOTALL)
    assert found is not None
    return words_of(found[0])


def command_of(text: str) -> list[str]:
    """The lines of the command that checks a verdict: fetch it, verify it, a flag each."""
    found = re.search(r"<pre id=\"verify\"[^>]*data-copy>(.*?)</pre>", text, re.DOTALL)
    assert found is not None
    return [line.strip(" \\") for line in found[1].splitlines()]


def agreement_of(text: str) -> list[str]:
    """The lines of the agreement at a glance."""
    found = re.search(r'<section class="agreement[^"]*".*?</section>', text, re.DOTALL)
    assert found is not None
    return [words_of(line) for line in re.findall(r"<p>.*?</p>|<li.*?</li>", found[0], re.DOTALL)]


async def test_a_build_shows_each_replica(running: Running, client: Client) -> None:
    nodes = running.network.nodes
    nodes["replica-1"].finds = lambda build: (
        finding(Outcome.FAILED, 1, log="1 failed\n"),
        b"1 failed\n",
    )
    build = await decided_build(running, client)
    text = await page(client, f"/builds/{build}")
    heading = re.search(r"<h1>(.*?)</h1>", text, re.DOTALL)
    assert heading is not None
    assert re.fullmatch(r"master ✓ passed exit code 0, built in 357 ms", words_of(heading[1]))
    assert column_of(text, "replica-0") == (
        "replica-0 ✓ agrees State ballot cast Outcome ✓ passed Exit code 0 "
        "Duration 357 ms checkout 12 ms, build 345 ms Signed yes Whole log 3 bytes log"
    )
    assert column_of(text, "replica-1").startswith(
        "replica-1 ✗ dissents State ballot cast Outcome ✗ failed Exit code 1"
    )
    assert column_of(text, "replica-1").endswith("Whole log 9 bytes 1 failed")
    assert agreement_of(text) == [
        "This verdict needed 3 equal ballots of 4 replicas. 3 of 4 agree with it.",
        "✓ agrees replica-0, replica-2, replica-3 passed, exit code 0",
        "✗ dissents replica-1 failed, exit code 1 another outcome, exit code; "
        "other output: the build is flaky, or this machine differs Where they differ",
    ]
    assert '<p class="stance dissents other-output">' in text
    assert "the same as replica-0's, apart from numbers" in column_of(text, "replica-2")
    assert 'id="what-failed"' not in text
    assert f'href="/builds/{build}/log/replica-1"' in text
    assert 'http-equiv="refresh"' not in text


async def test_a_build_is_found_by_the_beginning_of_its_id(
    running: Running, client: Client
) -> None:
    build = await decided_build(running, client)
    assert f'data-build="{build}"' in await page(client, f"/builds/{build[:6].upper()}")
    assert (await (await client.get(f"/api/v1/builds/{build[:12]}")).json())["id"] == build
    assert "no such build" in await page(client, f"/builds/{build[:5]}", status=404)
    twin = bytes.fromhex(build[:62] + ("00" if build[62:] != "00" else "01"))
    with running.database.transaction():
        running.archive.add(twin, BuildRequest(REPOSITORY, "twin"), 1.0)
    assert "give more" in await page(client, f"/builds/{build[:60]}", status=404)


async def test_where_replicas_differ_their_logs_are_side_by_side(
    running: Running, client: Client
) -> None:
    nodes = running.network.nodes
    nodes["replica-1"].finds = lambda build: (finding(Outcome.FAILED, 1, log="a\nred"), b"a\nred")
    for name in ("replica-0", "replica-2", "replica-3"):
        nodes[name].finds = lambda build: (finding(log="a\ngreen"), b"a\ngreen")
    build = await decided_build(running, client)
    text = await page(client, f"/builds/{build}")
    assert "The first difference is at line 2 of replica-0" in words_of(text)
    first = text[text.index('id="first-difference"') :]
    assert words_of(first[first.index(">") + 1 : first.index("</tr>")]) == (
        "2 green ≠ differs 2 red"
    )
    assert "<option selected>replica-0</option>" in text
    assert "<option selected>replica-1</option>" in text


async def test_beside_the_first_difference_stands_the_first_that_is_more_than_numbers(
    running: Running, client: Client
) -> None:
    logs = dict.fromkeys(running.network.nodes, b"took 1 s\ngreen\n")
    logs["replica-3"] = b"took 2 s\nred\n"
    for name, node in running.network.nodes.items():
        node.finds = finds(
            with_log(FAILED if name == "replica-3" else PASSED, logs[name]), logs[name]
        )
    build = await decided_build(running, client)
    text = await page(client, f"/builds/{build}")
    assert "The first difference is at line 1 of replica-0" in words_of(text)
    assert "Without numbers (times, counts, ids), the first difference is at line 2" in words_of(
        text
    )
    link = f"/builds/{build}/compare?left=replica-0&amp;right=replica-3&amp;numbers=ignored#first"
    assert link in text


async def test_the_same_output_with_another_finding_is_told(
    running: Running, client: Client
) -> None:
    running.network.nodes["replica-3"].finds = lambda build: (FAILED, b"log")
    text = await page(client, f"/builds/{await decided_build(running, client)}")
    assert "Both logs are the same, byte for byte." in text
    assert "Both logs are the same, but the outcomes differ." in text
    assert agreement_of(text)[-1].endswith(
        "suspect: the same output as those that agree, but another outcome Where they differ"
    )


async def test_the_step_that_failed_and_its_last_lines_come_first_and_once(
    running: Running, client: Client
) -> None:
    """Three saw a test fail and one did not: the verdict's side is compared with that one."""
    log = (
        "[pbft-ci] step build (1 of 3)\nmade\n[pbft-ci] step unit <b> (2 of 3)\n"
        + "".join(f"test {i} ok\n" for i in range(40))
        + "test 41 FAILED in {} s\n[pbft-ci] failed, exit code 7\n"
    )
    for index, node in enumerate(running.network.nodes.values()):
        own = log.format(index).encode()
        node.finds = finds(with_log(finding(Outcome.FAILED, 7, log=""), own), own)
    green = b"all is well\n"
    running.network.nodes["replica-0"].finds = finds(with_log(PASSED, green), green)
    build = await decided_build(running, client)
    text = await page(client, f"/builds/{build}")
    failure = text[text.index('id="what-failed"') : text.index('id="changes"')]
    assert "Step unit &lt;b&gt; (2 of 3) failed, exit code 7" in words_of(">" + failure)
    assert "test 41 FAILED in 1 s" in failure
    assert "test 20 ok" not in failure, "only the last lines"
    assert "replica-2, replica-3 logged the same, apart from numbers." in words_of(failure)
    assert f'href="/builds/{build}/log/replica-1?line=3#L3"' in failure
    assert "The logs of replica-1 and replica-0" in words_of(text)
    assert "The logs of replica-1 and replica-2" not in words_of(text)
    assert "the same as replica-1's" in column_of(text, "replica-3")
    assert "test 41 FAILED" in column_of(text, "replica-1")


async def test_where_all_agree_nothing_differs(running: Running, client: Client) -> None:
    text = await page(client, f"/builds/{await decided_build(running, client)}")
    assert "Where the replicas differ" not in text
    assert "Compare two logs" in text


async def test_artifacts_that_differ_are_at_the_same_place(
    running: Running, client: Client
) -> None:
    for name, node in running.network.nodes.items():
        content = b"other" if name == "replica-3" else b"same"
        found = finding(artifacts=(artifact("dist/app", content),))
        node.finds = finds(found, b"log")
    text = await page(client, f"/builds/{await decided_build(running, client)}")
    assert agreement_of(text)[-1] == (
        "✗ dissents replica-3 passed, exit code 0 another artifacts Where they differ"
    )
    differences = text[text.index("Where the replicas differ") : text.index('id="proof"')]
    assert "Files that differ" in differences
    assert "dist/app" in differences


async def test_the_proof_can_be_fetched_and_the_command_copied(
    running: Running, client: Client
) -> None:
    steps = (Step("test", True), Step("release", False))
    for node in running.network.nodes.values():
        node.finds = lambda build: (finding(steps=steps), b"log")
    build = await decided_build(running, client)
    text = await page(client, f"/builds/{build}")
    assert "4 of 4 replicas signed this verdict; 2 signatures are needed." in text
    link = f'<a href="/api/v1/builds/{build}/attestation" download="{build[:12]}.intoto.json">'
    assert link in text
    fetch, check, *_ = command_of(text)
    assert fetch.startswith(f"curl -s http://localhost:8080/api/v1/builds/{build}/attest")
    assert check.startswith("python -m client verify verdict.intoto.json")
    assert command_of(text)[2:] == [
        f"--repository {REPOSITORY}",
        f"--commit {COMMIT}",
        "--ref refs/heads/master",
        "--event push",
        f"--pipeline-sha256 {PIPELINE_SHA256}",
        "--step test",
    ]


async def test_the_command_of_a_pull_request_demands_its_target(
    running: Running, client: Client
) -> None:
    """The same head asked for under another target has the same ref."""
    wanted = BuildRequest(
        REPOSITORY, "lax", COMMIT, event=Event.PULL_REQUEST, ref="refs/pull/7/head"
    )
    build = (await running.gateway.order(wanted)).build
    await until(lambda: record_of(running, build).collected)
    flags = command_of(await page(client, f"/builds/{build.hex()}"))
    assert "--ref refs/pull/7/head" in flags
    assert "--target refs/heads/lax" in flags


async def test_an_open_build_refreshes_itself(network: Network, tmp_path: Path) -> None:
    running = await run_gateway(network, tmp_path, FixedResolver(Unreachable("<b>down</b>")))
    client = await client_of(running, tmp_path)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).detail is not None)
    text = await page(client, f"/builds/{build.hex()}")
    assert 'http-equiv="refresh"' in text
    assert "&lt;b&gt;down&lt;/b&gt;" in text
    assert agreement_of(text) == [
        "Not decided yet: “passed” needs 3 equal ballots of 4 replicas, anything else 2. "
        "0 of 4 have cast a ballot.",
        "… none yet replica-0, replica-1, replica-2, replica-3",
    ]
    await client.close()
    await running.close()


async def test_hostile_text_is_text(running: Running, client: Client) -> None:
    """Of a log, a branch and a reason, wherever on the page."""
    script = "<script>alert(1)</script>"
    log = f"{script}\x1b]0;title\x07\x1b[2J\x00\x1b[31m{script}\u202e".encode() + b"\xff" * 9
    log += b"x" * 1_000_000
    nodes = running.network.nodes
    nodes["replica-1"].finds = lambda build: (Abstain(script), b"")
    for number, name in enumerate(("replica-0", "replica-2", "replica-3")):
        own = log + b"%d" % (number % 2)
        outcome = (Outcome.FAILED, 1 + number % 2)
        found = finding(*outcome, log="")
        nodes[name].finds = finds(with_log(found, own), own)
    build = await decided_build(running, client, script)
    for path in (
        f"/builds/{build}",
        f"/builds/{build}/compare?left=replica-0&right=replica-2",
        f"/builds/{build}/log/replica-0",
    ):
        text = await page(client, path)
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
        if "/log/" not in path:
            assert len(text) < 100_000, "a long line is not shown as a whole"


async def test_the_page_of_a_finished_log_comes_from_the_server(
    running: Running, client: Client
) -> None:
    build = await decided_build(running, client, "<script>alert(1)</script>")
    answer = await client.get(f"/builds/{build}/log/replica-1")
    text = await answer.text()
    assert text.count("<script") == 3
    assert ">1</a>log</span></div>" in text
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    for query in ("page=0", "page=x", "line=-1", "line=" + "9" * 19):
        assert "a number from 1" in await page(
            client, f"/builds/{build}/log/replica-1?{query}", status=400
        )
    assert "no replica of that name" in await page(client, f"/builds/{build}/log/x", status=404)


async def test_the_page_of_a_growing_log_has_our_scripts_and_no_other(
    running: Running, client: Client
) -> None:
    nobody_finishes(running.network)
    build = await open_build(running, client)
    text = await page(client, f"/builds/{build}/log/replica-1")
    assert text.count("<script") == 4
    assert '<script type="module" src="/static/log.js"></script>' in text
    assert f'data-events="/api/v1/builds/{build}/replicas/replica-1/log/events"' in text
    for name in ("log", "log_pane", "build"):
        script = await client.get(f"/static/{name}.js")
        assert script.content_type == "text/javascript"
        assert "HTML" not in await script.text(), "what it shows is text"


async def test_a_replica_without_a_ballot_is_shown_with_what_it_does(
    running: Running, client: Client
) -> None:
    node = running.network.nodes["replica-1"]
    nobody_finishes(running.network)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    node.growing.add(build)
    node.logs[build] = b"compiling\n"
    await until(lambda: record_of(running, build).opened_at is not None)
    await until(lambda: build in node.application.open_builds())
    text = await page(client, f"/builds/{build.hex()}")
    assert "for <span data-since=" in text
    assert column_of(text, "replica-1") == (
        "replica-1 … none yet State building Signed no Whole log so far compiling"
    )
    view = await (await client.get(f"/api/v1/builds/{build.hex()}")).json()
    states = {row["replica"]: row for row in view["replicas"]}
    assert states["replica-1"]["state"] == "building"
    assert states["replica-1"]["seen"].endswith("Z")
    assert states["replica-1"]["problem"] is None


async def test_a_superseded_build_links_to_the_one_that_took_its_place(
    running: Running, client: Client
) -> None:
    nobody_finishes(running.network)
    build = await running.gateway.submit(REPOSITORY, "master", None)
    await until(lambda: record_of(running, build).opened_at is not None)
    await running.gateway.cancel(build, f"superseded by {'ab' * 32}")
    await until(lambda: record_of(running, build).statement is not None)
    text = await page(client, f"/builds/{build.hex()}")
    assert f'<a href="/builds/{"ab" * 32}">' in text
    assert agreement_of(text) == [
        "Cancelled: there was no agreement.",
        "- none replica-0, replica-1, replica-2, replica-3",
    ]


def test_a_column_for_every_replica() -> None:
    _, build, statement, ballots = decided([PASSED, FAILED, PASSED, PASSED])
    replies = [ReplyRecord("replica-0", True, bytes(64)), ReplyRecord("replica-1", False, None)]
    view = build_view(record(build=build, statement=statement), ballots[:2], replies)
    names = ("replica-0", "replica-1", "replica-2", "replica-9")
    columns = replica_columns(view, names)
    assert [column.stance for column in columns] == ["agrees", "dissents", "agrees", "none yet"]
    columns = replica_columns(view, names, is_collected=True)
    assert [column.stance for column in columns] == ["agrees", "dissents", "agrees", "none"]
    assert [column.is_signed for column in columns] == [True, False, False, False]
    assert [column.ballot is not None for column in columns] == [True, True, False, False]
    assert [column.duration for column in columns] == ["357 ms", "357 ms", None, None]


async def requested(running: Running, commit: str, found: BuildResult) -> str:
    """The id of a finished build of a request's commit, about which all replicas find this."""
    compared = msgspec.structs.replace(found.compared, commit=commit)
    result = with_log(msgspec.structs.replace(found, compared=compared), b"log")
    for node in running.network.nodes.values():
        node.finds = finds(result, b"log")
    words = forge_words("mallory", 7, "Fix <b>it</b>")
    request = BuildRequest(
        REPOSITORY, "master", commit, Event.PULL_REQUEST, "refs/pull/7/head", author="ada"
    )
    ordered = await running.gateway.order(msgspec.structs.replace(request, words=words))
    await until(lambda: record_of(running, ordered.build).collected)
    return ordered.build.hex()


async def test_a_build_shows_its_commit_its_request_and_what_changed(
    running: Running, client: Client
) -> None:
    commits = chain(3)
    newest, middle, oldest = (commit_id(data, is_sha256=False) for data in commits)
    green = await requested(running, oldest, PASSED)
    with running.database.transaction():
        running.archive.commits.add(read_commits(packed(*commits), newest), 1)
    red = await requested(running, middle, FAILED)
    again = await requested(running, newest, FAILED)
    text = await page(client, f"/builds/{again}")
    said = words_of(text)
    assert "<strong>number 2</strong>" in text
    assert "by A, " in said
    assert "Request #7: Fix &lt;b&gt;it&lt;/b&gt;, by ada (as the forge reported it)" in said
    assert "Pull request refs/pull/7/head by mallory (as the forge reported it)" in said
    assert f'Passed last</dt><dd><a href="/builds/{green}">commit {oldest[:10]}</a>' in text
    assert f'Failing since</dt><dd><a href="/builds/{red}">commit {middle[:10]}</a>' in text
    assert "2 builds so far" in said
    assert "1 commit new in the first build that failed" in said
    assert "number 1 A, " in said
    assert "This commit 1 failed - its builds" in said
    assert "this build" in words_of(await page(client, f"/builds/{red}"))
    fixed = await requested(running, newest, PASSED)
    said = words_of(await page(client, f"/builds/{fixed}"))
    assert "fixed: 2 builds before this one failed" in said
    assert "This commit 1 failed, 1 passed - its builds flaky, or not of the commit alone" in said
    shown = await (await client.get(f"/api/v1/builds/{again}")).json()
    assert shown["commit_details"]["subject"] == "number 2"
    assert shown["request"] == {"number": 7, "title": "Fix <b>it</b>", "url": None}
    assert (shown["sender"], shown["requested_by"]) == ("mallory", GATEWAY)
    history = await (await client.get(f"/api/v1/builds/{again}/history")).json()
    assert (history["green"]["id"], history["red"]["id"]) == (green, red)
    assert [commit["subject"] for commit in history["commits"]["shown"]] == ["number 1"]
    assert "number 2" in await page(client, "/?event=pull_request")


async def test_links_lead_to_the_configured_forge_alone(running: Running, tmp_path: Path) -> None:
    listed = (GatewayRepository(REPOSITORY, unsigned_allowed=True, forge="gitea"),)
    client: Client = TestClient(TestServer(make_application(site_of(running, tmp_path, listed))))
    await client.start_server()
    try:
        commits = chain(2)
        newer, older = (commit_id(data, is_sha256=False) for data in commits)
        await requested(running, older, PASSED)
        build = await requested(running, newer, FAILED)
        text = await page(client, f"/builds/{build}")
        base = REPOSITORY.removesuffix(".git")
        for address in (f"commit/{newer}", f"compare/{older}...{newer}", "pulls/7"):
            assert f'href="{base}/{address}" rel="noreferrer"' in text
    finally:
        await client.close()


async def test_a_log_is_searched_and_has_times(running: Running, client: Client) -> None:
    log = b"[pbft-ci] step a (1 of 1)\none <TWO>\n[pbft-ci] passed, exit code 0\n"
    for node in running.network.nodes.values():
        node.finds = finds(with_log(PASSED, log), log)
        node.times = b"0 0\n26 2500\n"
    build = await decided_build(running, client)
    address = f"/builds/{build}/log/replica-1"
    text = await page(client, f"{address}?find=two&times=yes")
    assert "<mark>TWO</mark>&gt;" in text
    assert f'href="{address}?line=2&amp;times=yes#L2"' in text
    assert '<span class="at">0:02.5</span>' in text
    assert "Hide times" in text
    assert 'No line has "nowhere"' in words_of(await page(client, f"{address}?find=nowhere"))
    await page(client, f"{address}?find={'x' * 201}", status=400)
    assert "Show times" in await page(client, address)
    api = f"/api/v1/builds/{build}/replicas/replica-1/log/times"
    assert await (await client.get(api)).text() == "0 0\n26 2500\n"


async def test_the_proof_is_on_a_page_of_its_own(running: Running, client: Client) -> None:
    build = await decided_build(running, client)
    said = words_of(await page(client, f"/builds/{build}/proof"))
    assert said.count("\u2713 holds") == 5
    assert "3 came before the verdict, 1 later" in said
    assert f"proof {build} --gateway http://localhost:8080 --cluster cluster.yml" in said
    proof = await (await client.get(f"/api/v1/builds/{build}/proof")).json()
    assert proof["build"] == build
    assert len(proof["ballots"]) == 4
    assert f'href="/builds/{build}/proof"' in await page(client, f"/builds/{build}")
