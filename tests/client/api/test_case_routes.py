"""client.api.case_routes: a build's test cases, a repository's, one case, and reports."""

from pathlib import Path

import pytest

from ci.case_results import case_sha256, decode_report, report_sha256
from ci.flaky import SeenBuild, observe, recorded_reports, standings
from ci.ledger import LateBallotEntry, VerdictEntry, decode_entry
from ci.statement import parse_statement
from tests.ci.builders import COMMIT
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import REPOSITORY, Running
from tests.client.site import Client, client_of, get, post
from tests.client.tested_builds import CASE, MESSAGE, OTHERS, collected, details_of, reports

FAILED = {CASE: "failed"}
NAMES = ("replica-0", "replica-1", "replica-2", "replica-3")
ALL_FAILED = dict.fromkeys(NAMES, FAILED)


async def test_a_build_where_all_agree(running: Running, client: Client) -> None:
    reports(running)
    build = await collected(running, client)
    status, found = await get(client, f"/api/v1/builds/{build}/tests")
    assert status == 200
    none = dict.fromkeys(("failed", "skipped", "warned", "quarantined"), 0)
    assert found["counts"] == {"total": 13, "passed": 13, **none}
    assert (found["cases"], found["fixed"], found["compared_with"]) == ([], [], None)
    assert [report["replica"] for report in found["reports"]] == list(NAMES)
    assert found["agreed_report_sha256"] == found["reports"][0]["report_sha256"]
    assert found["slowest"][0] == {
        "id": "pytest::tests.test_other::test_9",
        "sha256": case_sha256("pytest::tests.test_other::test_9"),
        "seconds": 1.2,
    }
    _, few = await get(client, f"/api/v1/builds/{build}/tests?slowest=2")
    assert len(few["slowest"]) == 2
    assert (await get(client, f"/api/v1/tests?repository={REPOSITORY}"))[1]["cases"] == []


async def test_a_build_without_reports(running: Running, client: Client) -> None:
    build = await collected(running, client)
    _, found = await get(client, f"/api/v1/builds/{build}/tests")
    assert (found["reports"], found["counts"]) == ([], None)
    status, error = await get(client, f"/api/v1/builds/{build}/tests/report")
    assert (status, error["error"]) == (404, "no replica reported tests of this build")


async def test_a_failure_is_new_then_still_there_then_fixed(
    running: Running, client: Client
) -> None:
    reports(running)
    first = await collected(running, client)
    reports(running, otherwise=ALL_FAILED, code=1)
    second = await collected(running, client)
    _, found = await get(client, f"/api/v1/builds/{second}/tests")
    assert found["compared_with"] == first
    (row,) = found["cases"]
    assert (row["id"], row["agreed"], row["since"]) == (CASE, "failed", "new")
    assert row["seen"][0] == {"replica": "replica-0", "outcome": "failed", "message": MESSAGE}
    third = await collected(running, client)
    _, found = await get(client, f"/api/v1/builds/{third}/tests")
    assert found["cases"][0]["since"] == "still failing"
    reports(running)
    fourth = await collected(running, client)
    _, found = await get(client, f"/api/v1/builds/{fourth}/tests")
    assert (found["cases"], found["fixed"]) == ([], [CASE])


async def test_one_machine_is_told_apart_from_a_flaky_case(
    running: Running, client: Client
) -> None:
    """All builds are of one commit here; another commit is for the tests of ci.flaky."""
    reports(running, otherwise={"replica-3": FAILED})
    builds = [await collected(running, client) for _ in range(2)]
    _, page = await get(client, f"/api/v1/tests?repository={REPOSITORY}&state=one machine")
    (case,) = page["cases"]
    assert (case["id"], case["differed"]) == (CASE, [{"replica": "replica-3", "times": 2}])
    assert (case["disagreements"], case["observations"], case["made_red"]) == (2, 2, 0)
    assert (await get(client, f"/api/v1/tests?repository={REPOSITORY}&state=flaky"))[1] == {
        "cases": [],
        "next": None,
        "quarantined": [],
    }
    _, history = await get(client, f"/api/v1/tests/{case['sha256']}")
    assert [build["build"] for build in history["builds"]] == builds[::-1]
    seen = {one["replica"]: one["outcome"] for one in history["builds"][0]["seen"]}
    assert seen == dict.fromkeys(NAMES, "not failed") | {"replica-3": "failed"}
    _, found = await get(client, f"/api/v1/builds/{builds[1]}/tests")
    assert (found["cases"][0]["agreed"], found["cases"][0]["state"]) == ("outvoted", "one machine")
    answer = await client.get("/metrics")
    assert 'pbftci_tests{state="one machine"} 1.0' in await answer.text()


async def test_anybody_computes_the_same_from_the_ledger(running: Running, client: Client) -> None:
    builds = []
    for at, failed in enumerate(({"replica-3"}, {"replica-0", "replica-1"}, {*NAMES}, set())):
        reports(running, otherwise=dict.fromkeys(failed, FAILED), code=at % 2)
        builds.append(await collected(running, client))
    ledger = [decode_entry(entry.body) for entry in running.network.nodes["replica-2"].ledger]
    seen = []
    for build in builds:
        (verdict,) = (e for e in ledger if isinstance(e, VerdictEntry) and e.build == build)
        late = [e for e in ledger if isinstance(e, LateBallotEntry) and e.build == build]
        record = record_of(running, bytes.fromhex(build))
        assert record.decided_at is not None
        is_red = parse_statement(bytes(verdict.statement)).verdict.outcome != "passed"
        observed = observe(recorded_reports(verdict, late), 1)
        seen.append(SeenBuild(record.decided_at, COMMIT, "master", is_red, observed))
    (kept,) = running.archive.cases.find(case_sha256(CASE))
    assert kept.standing == standings(seen, 1, seen[-1].at)[CASE]
    assert (kept.standing.observations, kept.standing.disagreements) == (4, 2)


async def test_the_agreed_report_has_its_digest(running: Running, client: Client) -> None:
    many = {f"pytest::test_{number}::{'x' * 100}": "passed" for number in range(200)}
    reports(running, otherwise={**dict.fromkeys(NAMES, many), "replica-3": many | FAILED})
    build = await collected(running, client)
    _, found = await get(client, f"/api/v1/builds/{build}/tests")
    answer = await client.get(f"/api/v1/builds/{build}/tests/report")
    assert answer.content_type == "text/plain"
    data = await answer.read()
    assert report_sha256(data) == found["agreed_report_sha256"]
    assert len(decode_report(data)) == 213
    path = f"/api/v1/builds/{build}/tests/report?replica=replica-3"
    assert decode_report(await (await client.get(path)).read())[CASE] == "failed"
    for node in running.network.nodes.values():
        node.cases[bytes.fromhex(build)] = details_of(OTHERS)
    status, error = await get(client, path)
    assert status == 502
    assert "its ballot names" in error["error"]
    for node in running.network.nodes.values():
        node.cases[bytes.fromhex(build)] = b"{"
    assert (await get(client, path))[0] == 502


async def test_without_an_agreed_report_a_replica_is_named(
    running: Running, client: Client
) -> None:
    reports(running, otherwise=dict.fromkeys(NAMES[:2], FAILED))
    build = await collected(running, client)
    status, error = await get(client, f"/api/v1/builds/{build}/tests/report")
    assert (status, "no report is agreed on" in error["error"]) == (404, True)
    answer = await client.get(f"/api/v1/builds/{build}/tests/report?replica=replica-1")
    assert decode_report(await answer.read())[CASE] == "failed"
    path = f"/api/v1/builds/{build}/tests/report?replica=nobody"
    assert (await get(client, path))[0] == 400


async def test_details_that_a_ballot_does_not_name_are_not_kept(
    running: Running, client: Client
) -> None:
    reports(running, otherwise=ALL_FAILED, code=1)
    liar = running.network.nodes["replica-1"]
    honest = liar.finds

    def find(build):  # type: ignore[no-untyped-def]
        found = honest(build)
        liar.cases[build.id] = details_of(OTHERS)
        return found

    liar.finds = find
    _, accepted = await post(client, {"branch": "master"})
    build = bytes.fromhex(accepted["build"])
    await until(lambda: sum(b.tests_archived for b in running.archive.ballots(build)) == 3)
    _, found = await get(client, f"/api/v1/builds/{build.hex()}/tests")
    messages = {one["replica"]: one["message"] for one in found["cases"][0]["seen"]}
    assert messages == dict.fromkeys(NAMES, MESSAGE) | {"replica-1": None}
    liar.cases[build] = details_of({CASE: "failed", **OTHERS})
    await until(lambda: record_of(running, build).collected)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/tests", 400),
        ("/api/v1/tests?repository=r&state=odd", 400),
        ("/api/v1/tests?repository=r&limit=0", 400),
        ("/api/v1/tests?repository=r&after=x", 400),
        (f"/api/v1/tests?repository=r&after={'0' * 64}", 404),
        (f"/api/v1/tests?repository={'r' * 1025}", 400),
        (f"/api/v1/tests/{'0' * 64}", 404),
        ("/api/v1/tests/x", 404),
        (f"/api/v1/builds/{'0' * 64}/tests", 404),
    ],
)
async def test_what_is_wrong_is_refused(client: Client, path: str, status: int) -> None:
    found, error = await get(client, path)
    assert found == status
    assert error["error"]


async def test_a_page_of_cases_ends_and_goes_on(running: Running, tmp_path: Path) -> None:
    client = await client_of(running, tmp_path)
    cases = dict.fromkeys(list(OTHERS)[:2], "failed")
    reports(running, otherwise={"replica-3": cases})
    build = await collected(running, client)
    for path, name in (
        (f"/api/v1/builds/{build}/tests?", "sha256"),
        (f"/api/v1/tests?repository={REPOSITORY}&", "sha256"),
    ):
        _, first = await get(client, f"{path}limit=1")
        _, second = await get(client, f"{path}limit=1&after={first['next']}")
        assert first["next"] == first["cases"][0][name]
        assert second["next"] is None
        assert {first["cases"][0]["id"], second["cases"][0]["id"]} == set(cases)
    await client.close()
