"""A node is made to lie from the dashboard: the next build is right, and its dissent is shown."""

import http.client
import re
from urllib.parse import urlencode, urlsplit

import pytest

from common.configuration.config import load_node_config
from tests.processes.conftest import NetworkMaker
from tests.processes.network import Network, ask, pipeline
from tests.processes.programs import start

pytestmark = pytest.mark.processes

SECONDS = 180.0
HONEST = ["node0", "node1", "node2"]


class Browser:
    """What a browser does with the gateway's forms: it keeps the cookie and says its page."""

    def __init__(self, network: Network) -> None:
        self._origin = network.gateway_url
        self._cookie = ""

    def load(self, path: str) -> str:
        """GET a page; its text."""
        status, headers, body = self._send("GET", path, {}, None)
        assert status == 200, body
        self._cookie = headers.get("Set-Cookie", self._cookie).split(";")[0]
        return body

    def submit(self, page: str, path: str, fields: dict[str, str]) -> tuple[int, str]:
        """Send a form of this page: the status, and where it leads (else what it says)."""
        csrf = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
        assert csrf is not None, "the page has no form"
        body = urlencode({**fields, "csrf": csrf[1]})
        headers = {
            "Origin": self._origin,
            "Content-Type": "application/x-www-form-urlencoded",
        }
        status, answered, text = self._send("POST", path, headers, body)
        return status, answered.get("Location", text)

    def _send(
        self, method: str, path: str, headers: dict[str, str], body: str | None
    ) -> tuple[int, dict[str, str], str]:
        # of the standard library the one that follows no redirects
        connection = http.client.HTTPConnection(urlsplit(self._origin).netloc, timeout=SECONDS)
        try:
            cookie = {"Cookie": self._cookie} if self._cookie else {}
            connection.request(method, path, body, {**headers, **cookie})
            answer = connection.getresponse()
            return answer.status, dict(answer.headers), answer.read().decode()
        finally:
            connection.close()


def card(page: str, name: str) -> str:
    """What /replicas says of one replica."""
    return page.split(f'id="replica-{name}"')[1].split("</article>")[0]


def test_a_node_lies_when_it_is_told_to_and_its_dissent_is_shown(
    make_network: NetworkMaker,
) -> None:
    network = make_network(
        {"master": pipeline("echo green")},
        overrides={
            "node3": {"fault_injection": "allowed"},
            "cluster": {"checkpoint_interval": 4, "window": 16},
        },
    )
    network.start()
    first = network.complete(network.post("master"))
    assert sorted(first["verdict"]["agreeing"]) == [*HONEST, "node3"]
    browser = Browser(network)
    network.wait_until(
        lambda: "/replicas/misbehave" in browser.load("/replicas"), "the switch", SECONDS
    )
    page = browser.load("/replicas")
    assert re.findall(r'<select name="replica">(.*?)</select>', page) == ["<option>node3</option>"]
    fields = {"replica": "node3", "fault": "lying"}
    status, location = browser.submit(page, "/replicas/misbehave", fields)
    assert (status, location) == (303, "/replicas?done=misbehave")
    assert "The node has accepted the change" in browser.load(location)
    network.wait_until(
        lambda: "node3 misbehaves on purpose (lying)" in browser.load("/replicas"),
        "the page says so plainly",
        SECONDS,
    )
    assert network.status("node3")["fault_injection"] == "lying"

    # "and watch the next build": the page's own button
    page = browser.load("/replicas")
    status, location = browser.submit(page, f"/builds/{first['id']}/rebuild", {})
    assert status == 303
    found = re.fullmatch(r"/builds/([0-9a-f]{64})(\?.*)?", location)
    assert found is not None, location
    view = network.complete(found[1])
    assert (view["verdict"]["outcome"], view["verdict"]["exit_code"]) == ("passed", 0)
    assert sorted(view["verdict"]["agreeing"]) == HONEST
    assert view["verdict"]["dissenting"] == ["node3"]

    network.wait_until(
        lambda: "differed from 1 verdict" in card(browser.load("/replicas"), "node3"),
        "its dissent on the page",
        SECONDS,
    )
    page = browser.load("/replicas")
    assert "node3 disagreed with 1 of the newest 2 verdicts" in page
    assert f'<a href="/builds/{view["id"]}">master' in card(page, "node3")
    assert "found failed 1" in card(page, "node3")
    assert all("differed" not in card(page, name) for name in HONEST)
    # a ballot that differs proves nothing
    assert "proof of misbehaviour</span>" not in page

    assert_in_the_ledger(network, browser, view["id"])

    status, _ = browser.submit(page, "/replicas/misbehave", {"replica": "node3", "fault": ""})
    assert status == 303
    again = network.complete(network.post("master"))
    assert sorted(again["verdict"]["agreeing"]) == [*HONEST, "node3"]


def assert_in_the_ledger(network: Network, browser: Browser, build: str) -> None:
    """The ledger's page has the build with who dissented, under a real certificate."""

    def rows() -> list[str]:
        ledger = browser.load("/ledger")
        return [row.split("</tr>")[0] for row in ledger.split('<tr id="entry-')[1:]]

    def is_told() -> bool:
        return any(build in row and "dissents" in row for row in rows())

    network.wait_until(is_told, "the dissent in the ledger", SECONDS)
    network.wait_until(
        lambda: any("certified" in row for row in rows()), "a certified entry", SECONDS
    )
    ledger = browser.load("/ledger")
    assert "Verified by this gateway" in ledger
    assert re.search(r"Up to entry \d+, node\d, node\d, node\d(, node3)? signed for it", ledger)
    assert "not verified" not in ledger


def test_who_was_not_allowed_to_misbehave_cannot_be_told_to(make_network: NetworkMaker) -> None:
    network = make_network({"master": pipeline("echo green")})
    network.start()
    build = network.complete(network.post("master"))["id"]
    browser = Browser(network)
    assert "isbehave" not in card(browser.load("/replicas"), "node3")
    page = browser.load(f"/builds/{build}")
    fields = {"replica": "node3", "fault": "lying"}
    status, _ = browser.submit(page, "/replicas/misbehave", fields)
    assert status == 404
    assert network.status("node3")["fault_injection"] is None
    network.wait_until(
        lambda: ask(f"{network.gateway_url}/api/v1/network").json()["level"] == "good",
        "all is well",
        SECONDS,
    )


@pytest.mark.parametrize("flag", [None, "allowed"])
def test_only_a_node_with_the_flag_loads_what_misbehaves(
    make_network: NetworkMaker, flag: str | None
) -> None:
    """A real interpreter starts the node, serves, ends and lists its modules."""
    listing = (
        "import atexit, sys; from node.main import main;"
        "atexit.register(lambda: print(*sorted(sys.modules), sep='\\n'));"
        "sys.exit(main(['--config', sys.argv[1]]))"
    )
    network = make_network(
        {"green": pipeline("true")}, overrides={"node0": {"fault_injection": flag}}
    )
    config = load_node_config(network.config_file("node0"))
    ended = start("-c", listing, str(config.file), listen=config.listen)
    assert ended.code is None, ended
    loaded = ended.output.split()
    assert "node.web.server" in loaded
    assert any(name.startswith("node.faults") for name in loaded) == (flag is not None)
