"""What the tests of benches share: the engine of some of them."""

from tests.node.conftest import docker_engine

__all__ = ["docker_engine"]
