"""client.dashboard.case_pages, and the tests on a build's page."""

import re

import pytest

from ci.case_results import case_sha256
from ci.flaky import CaseState
from client.dashboard.case_pages import explanation_of, strip_of
from client.storage.case_extract import QuarantinedCase
from client.views.case_view import CaseView, Differed, SeenBuildView, SeenOutcome
from tests.client.dashboard.pages import page
from tests.client.dashboard.test_build_page import words_of
from tests.client.running_network import REPOSITORY, Running
from tests.client.site import Client
from tests.client.tested_builds import CASE, collected, reports

FAILED = {CASE: "failed"}
NAMES = ("replica-0", "replica-1", "replica-2", "replica-3")
HOSTILE = "pytest::<img src=x onerror=alert(1)>\u202egpj.exe"


def section_of(text: str) -> str:
    """The tests on a build's page, as they are read."""
    found = re.search(r'<div id="tests".*?<h2>What each replica found', text, re.DOTALL)
    assert found is not None
    return words_of(found[0])


async def test_a_build_names_new_failures_with_their_messages(
    running: Running, client: Client
) -> None:
    reports(running)
    await collected(running, client)
    reports(running, otherwise=dict.fromkeys(NAMES, FAILED), code=1)
    text = section_of(await page(client, f"/builds/{await collected(running, client)}"))
    assert "4 replicas reported tests, all alike. 13 tests: 12 passed, 1 failed (1 new)." in text
    assert f"{CASE} new failure" in text
    assert "failed on replica-0, replica-1, replica-2, replica-3" in text
    assert "AssertionError: &lt;b&gt;10&lt;/b&gt; is not 11" in text
    assert "Slowest tests" in text


async def test_a_build_says_what_was_fixed(running: Running, client: Client) -> None:
    reports(running, otherwise=dict.fromkeys(NAMES, FAILED), code=1)
    await collected(running, client)
    reports(running)
    text = section_of(await page(client, f"/builds/{await collected(running, client)}"))
    assert f"Fixed ✓ {CASE}" in text


async def test_a_case_that_one_machine_sees_fail_is_told_as_its_fault(
    running: Running, client: Client
) -> None:
    reports(running, otherwise={"replica-3": FAILED})
    await collected(running, client)
    build = await collected(running, client)
    text = section_of(await page(client, f"/builds/{build}"))
    assert f"{CASE} others saw it pass ! one machine failed on replica-3" in text
    case = words_of(await page(client, f"/tests/{case_sha256(CASE)}"))
    assert "Only replica-3 ever differed from the others about it, in 2 builds." in case
    assert "Nothing shows that the test is flaky." in case
    listed = words_of(await page(client, f"/tests?repository={REPOSITORY}"))
    assert f"{CASE} ! one machine" in listed
    assert "in 2 of 2 builds replica-3 2 times" in listed


async def test_a_red_build_without_an_agreed_failure_offers_a_rebuild(
    running: Running, client: Client
) -> None:
    reports(
        running,
        otherwise={
            name: {
                f"pytest::{letter}": "failed" if n == at else "passed"
                for n, letter in enumerate("wxyz")
            }
            for at, name in enumerate(NAMES)
        },
        code=1,
    )
    text = section_of(await page(client, f"/builds/{await collected(running, client)}"))
    assert "No failed test is agreed on: it may be flaky." in text


async def test_a_machine_in_trouble_and_other_sets_are_told(
    running: Running, client: Client
) -> None:
    many = {f"pytest::test_other::test_{n}": "failed" for n in range(12)}
    passed = dict.fromkeys(many, "passed")
    reports(running, otherwise={**dict.fromkeys(NAMES, passed), "replica-1": many})
    text = section_of(await page(client, f"/builds/{await collected(running, client)}"))
    assert "replica-1 differs in more than a fifth of the tests." in text
    reports(running, otherwise={"replica-2": {"pytest::only_here": "passed"}})
    text = section_of(await page(client, f"/builds/{await collected(running, client)}"))
    assert "The sets of tests differ" in text
    assert "replica-2 had 14 tests" in text


async def test_a_strangers_id_is_text(running: Running, client: Client) -> None:
    reports(
        running,
        otherwise={
            "replica-3": {HOSTILE: "failed"},
            **{name: {HOSTILE: "passed"} for name in NAMES[:3]},
        },
    )
    build = await collected(running, client)
    sha256 = case_sha256(HOSTILE)
    for path in (f"/builds/{build}", f"/tests?repository={REPOSITORY}", f"/tests/{sha256}"):
        text = await page(client, path)
        assert "<img" not in text
        assert "\u202e" not in text
        assert r"&lt;img src=x onerror=alert(1)&gt;\u202egpj.exe" in text


async def test_without_tests_the_pages_say_so(running: Running, client: Client) -> None:
    assert "No build has reported tests yet" in await page(client, "/tests")
    build = await collected(running, client)
    assert "<h2>Tests" not in await page(client, f"/builds/{build}")
    reports(running)
    await collected(running, client)
    text = words_of(await page(client, "/tests"))
    assert "No test differs" in text
    assert "Slowest" in text
    assert "No test is flaky." in words_of(await page(client, "/tests?state=flaky"))


@pytest.mark.parametrize(
    "path", ["/tests?state=odd", "/tests?after=x", "/tests?repository=" + "r" * 1025]
)
async def test_a_wrong_address_is_a_page_that_says_so(client: Client, path: str) -> None:
    assert "is" in await page(client, path, 400)


async def test_a_case_that_is_not_kept_is_a_page(client: Client) -> None:
    assert "no case of that id is kept" in await page(client, f"/tests/{'0' * 64}", 404)


def test_the_strip_has_a_row_for_each_replica() -> None:
    builds = [
        SeenBuildView("b", "main", "c", None, False, True, tuple(map(SeenOutcome, names, outcomes)))
        for names, outcomes in (
            (("n0", "n1"), ("failed", "not failed")),
            (("n1", "n2"), ("not failed", "warned")),
        )
    ]
    assert strip_of(builds) == [
        ("n0", ["failed", "nothing"]),
        ("n1", ["not failed", "not failed"]),
        ("n2", ["nothing", "warned"]),
    ]


@pytest.mark.parametrize("state", list(CaseState))
def test_each_state_is_explained(state: CaseState) -> None:
    case = CaseView("x", "0", "r", state, 0.1, 9, 3, 0, None, "c", (Differed("node3", 3),))
    text = explanation_of(case)
    assert text.endswith(".")
    assert ("node3" in text) is (state is CaseState.ONE_MACHINE)


async def test_quarantined_tests_are_listed_as_f_plus_1_replicas_have_them(
    running: Running, client: Client
) -> None:
    soon = QuarantinedCase(HOSTILE, "2026-12-31", 3, "see <b>7</b>")
    over = QuarantinedCase(CASE, "2026-11-01", -2, "see 8")
    lie = QuarantinedCase(CASE, "2099-01-01", 9999, "a lie")
    quarantines = dict.fromkeys(NAMES[:2], (soon, over)) | {NAMES[3]: (lie, lie)}
    reports(running, quarantines=quarantines)
    await collected(running, client)
    text = words_of(await page(client, f"/tests?repository={REPOSITORY}"))
    assert (
        f"Quarantined tests, the fewest days left first Test Left Until Reason {CASE} over" in text
    )
    assert "3 days 2026-12-31 see &lt;b&gt;7&lt;/b&gt;" in text
    assert "a lie" not in text
    answer = await client.get(f"/api/v1/tests?repository={REPOSITORY}")
    found = (await answer.json())["quarantined"]
    assert [(entry["id"], entry["days_left"]) for entry in found] == [(CASE, -2), (HOSTILE, 3)]


async def test_without_a_quarantine_none_is_listed(running: Running, client: Client) -> None:
    reports(running)
    await collected(running, client)
    assert "Quarantined" not in await page(client, f"/tests?repository={REPOSITORY}")
