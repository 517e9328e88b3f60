"""Which steps ask for a network, as consumers of a verdict read an agreed file."""

import pytest

from ci.limits import Limits
from common.pipeline.pipeline_file import Pipeline, parse_pipeline
from common.pipeline.step_networks import step_networks

ALL = "whatever is reached"
STEPS = "steps:\n  - {name: a, commands: [x]}\n"


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("commands: [x]\n", {}),
        ("commands: [x]\nnetwork: true\n", {"build": ALL}),
        (STEPS, {}),
        (STEPS + "network: [a.org, b.org]\n", {"a": "a.org, b.org"}),
        (STEPS + "  - {name: b, commands: [x], network: true}\n", {"b": ALL}),
        (STEPS + '  - {name: b, commands: [x], "net\\x77ork": yes}\n', {"b": ALL}),
        (STEPS + "  - {name: b, commands: [x], network: false}\nnetwork: true\n", {"a": ALL}),
    ],
)
def test_it_reads_networks_as_replicas_do(text: str, networks: dict[str, str]) -> None:
    data = ("image: i\n" + text).encode()
    taken = parse_pipeline(data, Limits(), 0)
    assert isinstance(taken, Pipeline), taken
    assert step_networks(data) == networks
    assert {step.name for step in taken.steps if step.network} == networks.keys()


def test_those_of_a_dockerfile_are_for_run() -> None:
    assert step_networks(b"FROM a\nRUN x\n") == {}
    assert step_networks(b"#  PBFT-CI network:  a.org b.org\r\nFROM a\n") == {"RUN": "a.org b.org"}
