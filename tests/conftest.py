"""Which tests may run beside each other, where there are several workers.

The rule: whoever looks for what is left on the engine needs it for himself, so all tests with
Docker are one after the other; the tests of a file share their fixtures, so they stay together.
"""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put each test into the group that one worker runs (pytest-xdist, `--dist loadgroup`)."""
    for item in items:
        is_docker = item.get_closest_marker("docker") is not None
        group = "docker" if is_docker else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
