"""The installed commands `pbft-ci-node`, `pbft-ci-gateway` and `pbft-ci` (decisions/0023).

The packages of the checkout (`node`, `client`, `common` ...) have names that other software uses
too. So an installation keeps them in a folder of this package, where no import of others finds
them. The rule: each command puts that folder first on its own module path before it imports them.
"""

import sys
from pathlib import Path

TOP_LEVEL = Path(__file__).resolve().parent / "top_level"


def node() -> int:
    """Run `pbft-ci-node`, which is `python -m node`; the exit code."""
    _find_our_packages()
    from node.main import main

    return main()


def gateway() -> int:
    """Run `pbft-ci-gateway`: what `python -m client` is without a command; the exit code."""
    _find_our_packages()
    from client.main import gateway_main

    return gateway_main()


def command_line() -> int:
    """Run `pbft-ci`: the commands of `python -m client`; the exit code."""
    _find_our_packages()
    from client.main import commands_main

    return commands_main()


def _find_our_packages() -> None:
    sys.path.insert(0, str(TOP_LEVEL))
