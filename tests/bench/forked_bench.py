"""A bench whose nodes and gateways are forked: `python -m tests.bench.forked_bench NAME --quick`.

How fast they start is nothing that it measures, and their imports are most of what it would cost.
"""

import sys

from bench.main import main
from scripts.harness import Network, Programs
from tests import forked

if __name__ == "__main__":
    Network.programs = Programs(forked.start)
    exit_code = main(sys.argv[1:])
    forked.stop_server()
    sys.exit(exit_code)
