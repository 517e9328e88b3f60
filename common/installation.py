"""What people type to start these programs, and where they keep configurations.

Both differ between a checkout and an installation (decisions/0023).
"""

from pathlib import Path
from typing import Final

_TOP: Final = Path(__file__).resolve().parent.parent
# The wheel puts our packages there; pyproject.toml has the folder's name.
IS_INSTALLED: Final = _TOP.parts[-2:] == ("pbft_ci", "top_level")

NODE_COMMAND: Final = "pbft-ci-node" if IS_INSTALLED else "python -m node"
CLIENT_COMMAND: Final = "pbft-ci" if IS_INSTALLED else "python -m client"

# The commented examples, which `init` fills in.
EXAMPLE_CONFIG: Final = _TOP / "example-config"
# An example that works from a checkout would keep keys and data beside an installation's code.
_CONFIGURATIONS: Final = Path("/etc/pbft-ci") if IS_INSTALLED else EXAMPLE_CONFIG
CLIENT_CONFIG: Final = _CONFIGURATIONS / "client.yml"
NODE_CONFIG: Final = _CONFIGURATIONS / ("node.yml" if IS_INSTALLED else "node0.yml")


def shown(config: Path) -> str:
    """A default configuration as help texts name it: in a checkout from its top folder."""
    return str(config if IS_INSTALLED else config.relative_to(_TOP))
