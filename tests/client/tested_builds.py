"""Builds with test reports, for the tests of what the gateway makes of them."""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from ci.builds import OpenBuild
from ci.case_reports import with_cases
from ci.case_results import CaseOutcome
from ci.operations import Ballot, BuildResult, Outcome, ResultWithTests
from client.storage.case_extract import QuarantinedCase
from tests.ci.builders import finding
from tests.client.gateway.test_gateway import record_of, until
from tests.client.running_network import Running
from tests.client.site import Client, post

CASE = "pytest::tests.test_net::test_reconnect"
OTHERS = {f"pytest::tests.test_other::test_{number}": "passed" for number in range(12)}
MESSAGE = "AssertionError: <b>10</b> is not 11"

Cases = Mapping[str, str]


def with_tests(found: BuildResult, cases: Cases) -> ResultWithTests:
    """This finding with test cases: their outcomes by id."""
    return with_cases(found, {case: CaseOutcome(outcome) for case, outcome in cases.items()})


def details_of(cases: Cases, quarantine: Sequence[QuarantinedCase] = ()) -> bytes:
    """What a node serves of these cases: each failure has a message, each case its seconds."""
    rows = [
        (case, outcome, number / 10, MESSAGE if outcome == "failed" else None, "report.xml")
        for number, (case, outcome) in enumerate(sorted(cases.items()))
    ]
    served = {"report_sha256": "unchecked", "problem": None, "cases": rows}
    return msgspec.json.encode({**served, "quarantine": quarantine})


def reports(
    running: Running,
    *,
    otherwise: Mapping[str, Cases] = {},
    code: int = 0,
    quarantines: Mapping[str, Sequence[QuarantinedCase]] = {},
) -> None:
    """Have all nodes report that all cases passed, and some replicas that these did otherwise.

    Builds end with 0 on replicas where all passed, on the others with the code. quarantines: what
    replicas say that the pipeline file has.
    """
    for name, node in running.network.nodes.items():
        cases = {CASE: "passed", **OTHERS, **otherwise.get(name, {})}
        is_red = code != 0 and "failed" in cases.values()
        found = finding(Outcome.FAILED, code) if is_red else finding()
        served = details_of(cases, quarantines.get(name, ()))
        node.finds = _finds(node.cases, with_tests(found, cases), served)


def _finds(
    served: dict[bytes, bytes], ballot: Ballot, details: bytes
) -> Callable[[OpenBuild], tuple[Ballot, bytes]]:
    def find(build: OpenBuild) -> tuple[Ballot, bytes]:
        served[build.id] = details
        return ballot, b"log"

    return find


async def collected(running: Running, client: Client, branch: str = "master") -> str:
    """The id of a new build, once everything of it is here."""
    _, accepted = await post(client, {"branch": branch})
    build = str(accepted["build"])
    await until(lambda: record_of(running, bytes.fromhex(build)).collected)
    return build
