"""Which steps of an agreed pipeline file ask for a network, for consumers of a verdict. Pure.

The rule: only for a file whose SHA-256 replicas agreed on. They ran it, so it is valid, and nothing
but the network is looked at. No step has a network that the file does not ask for, since operators
can refuse one, and cannot give one.
"""

import re

from common.pipeline.pipeline_file import ONLY_STEP
from common.yaml_text import YamlError, load_yaml

# In a Dockerfile: for RUN in any stage.
NETWORK_COMMENT = re.compile(r"#\s*pbft-ci\s+network\s*:(.*)", re.IGNORECASE | re.ASCII)
RUN = "RUN"


def step_networks(data: bytes) -> dict[str, str]:
    """What each step with a network asks for, by its name; those of a Dockerfile are RUN."""
    try:
        pipeline, _ = load_yaml(data)
    except YamlError:
        pipeline = None
    if isinstance(pipeline, dict) and {"commands", "steps"} & pipeline.keys():
        steps = pipeline.get("steps") or [{"name": ONLY_STEP}]
        asked = {each["name"]: each.get("network", pipeline.get("network")) for each in steps}
        return {name: _shown(network) for name, network in asked.items() if network}
    lines = data.decode(errors="replace").split("\n")
    named = [found for line in lines if (found := NETWORK_COMMENT.fullmatch(line.strip()))]
    return {RUN: named[0][1].strip()} if named else {}


def _shown(network: object) -> str:
    return ", ".join(map(str, network)) if isinstance(network, list) else "whatever is reached"
