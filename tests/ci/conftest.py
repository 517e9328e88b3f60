"""What most tests of ci begin with."""

import pytest

from tests.ci.builders import World


@pytest.fixture
def world() -> World:
    """An application of four replicas, with nothing decided."""
    return World()
