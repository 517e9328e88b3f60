"""`python -m simulator`: see `simulator.main`."""

import sys

from simulator.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
