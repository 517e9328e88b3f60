"""Which tests may run beside each other, where there are several workers, and in which order.

The rule: who looks for what is left on the engine, or makes things there without a label, needs it
for himself, so those tests are one after the other. The others of a file share fixtures, so they
stay together. All tests in a browser share one, and what it looks at. What takes longest begins
first, so that no worker is left with it at the end.

Timings are never asserted, so hypothesis does not either: how long one example takes, and how long
it takes to draw one, says how busy the machine is.
"""

import ast
import functools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
BROWSER = "tests/browser/"
DOCKER = "docker"
ENGINE_FIXTURE = "docker_engine"
# Whole networks label all that they make on the engine, and do not look at it ...
NETWORKS = "tests/processes/"
# ... but for those that do, and those that push images to a registry and have them pulled.
ALONE = ("new_things", "RegistryServer")

# What takes longest, the longest first; all else follows. A wrong place costs time and nothing
# else; what has no place may be left to one worker at the end.
LONGEST = (
    DOCKER,
    "tests/simulator/test_long_gate.py",
    BROWSER,
    "tests/node/test_store_crash_states.py",
    "tests/node/test_store_refusals.py",
    "tests/node/test_scrub.py",
    "tests/processes/test_chaos.py",
    "tests/simulator/test_campaign.py",
    "tests/processes/test_view_change.py",
    "tests/processes/test_load.py",
    "tests/processes/test_life.py",
    "tests/processes/test_faults.py",
    "tests/processes/test_minimal.py",
    "tests/paper/test_traps_of_crashes_and_floods.py",
    "tests/processes/test_command_line.py",
    "tests/processes/test_damage.py",
    "tests/processes/test_forges.py",
    "tests/processes/test_start_errors.py",
    "tests/client/test_database_crash_states.py",
    "tests/processes/test_windows.py",
    "tests/processes/test_kill.py",
    "tests/client/test_openapi.py",
    "tests/seeds/test_s5_see_and_play.py",
    "tests/pbft/test_random_schedules.py",
    "tests/processes/test_split.py",
    "tests/client/test_main.py",
    "tests/processes/test_real_builds.py",
    "tests/seeds/test_s4_http_interface.py",
)

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def scope_of(nodeid: str) -> str:
    """What a test runs together with: its file, or more than that."""
    file, _, name = nodeid.partition("::")
    if file.startswith(BROWSER):
        return BROWSER
    tests = tests_alone_on_the_engine(file)
    return DOCKER if tests is None or name.partition("[")[0] in tests else file


@functools.cache
def tests_alone_on_the_engine(file: str) -> frozenset[str] | None:
    """The names of a file's tests that need the engine for themselves; None: all do.

    Read from its source, for whoever hands tests out to workers has nothing but their names.
    """
    source = (ROOT / file).read_text()
    if file.startswith(NETWORKS) and not any(word in source for word in ALONE):
        return frozenset()
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            if "mark.docker" in ast.unparse(node.value):
                return None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
            "mark.docker" in ast.unparse(decorator) for decorator in node.decorator_list
        ):
            found.add(node.name)
    return frozenset(found)


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
