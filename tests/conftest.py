"""Which tests may run beside each other, where there are several workers, and in which order.

The rule: the tests of a file share fixtures, so they stay together. All tests in a browser share
one, and what it looks at. Tests that use the Docker engine share it: each looks there for what is
its own, by a label or a name that nobody else has. What takes longest begins first, so that no
worker is left with it at the end.

Timings are never asserted, so hypothesis does not either: how long one example takes, and how long
it takes to draw one, says how busy the machine is.
"""

import gc
import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from scripts.free_ports import free_ports
from tests import forked
from tests.costs import Costs
from tests.leftovers import RUN_VARIABLE, Leftovers

BROWSER = "tests/browser/"
# What takes names of images for a while, which are the engine's and not one worker's.
DOCUMENTED = (
    "tests/ordinary/test_documented.py",
    "tests/ordinary/test_coming_from.py",
    "tests/ordinary/test_six_projects.py",
)
ENGINE_FIXTURE = "docker_engine"

# What takes longest, the longest first; all else follows. A wrong place costs time and nothing
# else; what has no place may be left to one worker at the end.
LONGEST = (
    DOCUMENTED[0],
    "tests/mutants/test_mutants.py",
    "tests/simulator/campaigns/test_long_gate.py",
    "tests/test_style_and_types.py",
    BROWSER,
    "tests/node/sandboxes/containers/test_docker_sandbox.py",
    "tests/node/storage/test_store_crash_states.py",
    "tests/node/storage/test_store_refusals.py",
    "tests/node/storage/test_scrub.py",
    "tests/node/sandboxes/containers/test_one_container.py",
    "tests/node/sandboxes/containers/test_images.py",
    "tests/operators/test_nemesis.py",
    "tests/operators/test_bring_up.py",
    "tests/deploy/test_image.py",
    "tests/bench/test_every_bench.py",
    "tests/processes/test_chaos.py",
    "tests/processes/test_rolling_upgrade.py",
    "tests/ordinary/test_projects.py",
    "tests/simulator/campaigns/test_campaign.py",
    "tests/node/sandboxes/containers/test_steps.py",
    "tests/node/sandboxes/containers/test_image_build.py",
    "tests/hostile/test_floods.py",
    "tests/hostile/test_dockerfiles.py",
    "tests/hostile/test_trees.py",
    "tests/processes/test_view_change.py",
    "tests/processes/test_load.py",
    "tests/processes/test_life.py",
    "tests/processes/test_faults.py",
    "tests/processes/test_minimal.py",
    "tests/seeds/test_s1_pbft_ci.py",
    "tests/simulator/campaigns/test_compiled.py",
    "tests/simulator/campaigns/test_explore.py",
    "tests/paper/test_traps_of_crashes_and_floods.py",
    "tests/processes/test_command_line.py",
    "tests/processes/test_damage.py",
    "tests/processes/test_forges.py",
    "tests/processes/test_start_errors.py",
    "tests/client/storage/test_database_crash_states.py",
    "tests/processes/test_windows.py",
    "tests/processes/test_kill.py",
    "tests/client/api/test_openapi.py",
    "tests/seeds/test_s5_see_and_play.py",
    "tests/pbft/test_random_schedules.py",
    "tests/processes/test_split.py",
    "tests/client/test_main.py",
    "tests/processes/test_real_builds.py",
    "tests/seeds/test_s4_http_interface.py",
)

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def unused_tcp_port() -> int:
    """A port on which nobody listens.

    That of pytest-asyncio is one that the kernel may give to whoever connects there: it would
    connect to itself.
    """
    return free_ports(1)[0]


def scope_of(nodeid: str) -> str:
    """What a test runs together with: its file, or more than that."""
    file = nodeid.partition("::")[0]
    if file.startswith(BROWSER):
        return BROWSER
    return DOCUMENTED[0] if file in DOCUMENTED else file


def pytest_configure(config: pytest.Config) -> None:
    """Measure what tests cost; once a run, look for what it left.

    A test that runs pytest itself is within such a run: what is there meanwhile is others'.
    """
    config.pluginmanager.register(Costs())
    if not hasattr(config, "workerinput") and RUN_VARIABLE not in os.environ:
        config.pluginmanager.register(Leftovers())


def pytest_collection() -> None:
    """Collect the tests without the collector of garbage: they all stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of each round of the collector."""
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    """End the programs that tests forked, before it is looked for what is left."""
    forked.stop_server()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Give each test the umask of the run: a program that a test calls in process sets another."""
    umask = os.umask(0o022)
    os.umask(umask)
    try:
        return (yield)
    finally:
        os.umask(umask)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse tests that use Docker and do not say so; for workers, put the longest first."""
    unmarked = [
        item.nodeid
        for item in items
        if ENGINE_FIXTURE in getattr(item, "fixturenames", ())
        and item.get_closest_marker("docker") is None
    ]
    if unmarked:
        raise pytest.UsageError(f"these need @pytest.mark.docker: {', '.join(unmarked)}")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _rank(scope_of(item.nodeid)))


def _rank(scope: str) -> int:
    return LONGEST.index(scope) if scope in LONGEST else len(LONGEST)


class _Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """A scope per worker at a time, in the order in which they are collected."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        # xdist would begin with what has the most tests
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Scheduling:
    """Asked by pytest-xdist, when it has several workers."""
    return _Scheduling(config, log)
