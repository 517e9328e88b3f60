"""What the tests of units, compose files and image share."""

from tests.node.conftest import base_image, docker_engine
from tests.pbft_ci.conftest import installation, wheel

__all__ = ["base_image", "docker_engine", "installation", "wheel"]
