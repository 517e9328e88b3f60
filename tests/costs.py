"""What each test costs, in time and in CPU, and what the whole run costs against its budget.

CPU is that of the worker, of the processes that it waited for, and of the programs that were
forked for it (tests/forked.py), in the phase in which they ended. What the Docker engine and the
containers use is in the machine's figure alone.
"""

import os
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import forked

# When the script began, and how long it should take; scripts/test.sh and .ci/run set them.
STARTED_VARIABLE = "PBFT_CI_STARTED"
BUDGET_VARIABLE = "PBFT_CI_BUDGET_SECONDS"
ROWS = 10
# What fewer tests cost is nobody's trouble.
TESTS_MIN = 1000


@dataclass
class Cost:
    """Seconds of the clock on the wall, and of CPU."""

    wall: float = 0.0
    cpu: float = 0.0

    def add(self, wall: float, cpu: float) -> None:
        """Count some more."""
        self.wall += wall
        self.cpu += cpu


class Costs:
    """A plugin of pytest. Workers measure; whoever reports adds up and prints."""

    def __init__(self) -> None:
        self._tests: defaultdict[str, Cost] = defaultdict(Cost)
        self._cpu_seconds = 0.0
        self._began = time.time()
        self._machine = _machine_seconds()

    def pytest_runtest_logstart(self) -> None:
        """Before the first phase of a test."""
        self._cpu_seconds = _cpu_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """After each phase: its CPU goes with the report, which workers send to the controller."""
        report = yield
        now = _cpu_seconds()
        report.cpu_seconds = now - self._cpu_seconds  # type: ignore[attr-defined]
        self._cpu_seconds = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Of each phase."""
        self._tests[report.nodeid].add(report.duration, getattr(report, "cpu_seconds", 0.0))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The slowest tests and files, and the whole."""
        if len(self._tests) < TESTS_MIN:
            return
        files = _by(self._tests, lambda test: test.partition("::")[0])
        write = terminalreporter.write_line
        for title, costs in (("tests", self._tests), ("files", files)):
            terminalreporter.write_sep("=", f"slowest {ROWS} {title}")
            write("  wall s    CPU s")
            for name in sorted(costs, key=lambda name: -costs[name].wall)[:ROWS]:
                write(f"{costs[name].wall:8.1f} {costs[name].cpu:8.1f}  {name}")
        folders = _by(self._tests, _folder)
        cases = Counter(map(_folder, self._tests))
        terminalreporter.write_sep("=", "all folders")
        write("   cases   wall s    CPU s")
        for name in sorted(folders, key=lambda name: -folders[name].cpu):
            cost = folders[name]
            write(f"{cases[name]:8} {cost.wall:8.1f} {cost.cpu:8.1f}  {name}")
        terminalreporter.write_sep("=", "the whole run")
        for line in self._whole():
            write(line)

    def _whole(self) -> list[str]:
        now = time.time()
        busy, possible = (
            after - before for after, before in zip(_machine_seconds(), self._machine, strict=True)
        )
        cpu = sum(cost.cpu for cost in self._tests.values())
        lines = [
            f"{len(self._tests)} tests in {_minutes(now - self._began)}, {cpu:.0f} s of CPU; the"
            f" machine: {busy:.0f} s, {100 * busy / max(possible, 1.0):.0f} % of {os.cpu_count()}"
            " cores"
        ]
        if BUDGET_VARIABLE in os.environ:
            whole = now - float(os.environ.get(STARTED_VARIABLE, self._began))
            budget = float(os.environ[BUDGET_VARIABLE])
            what = "ABOVE" if whole > budget else "within"
            lines.append(
                f"with all set-up {_minutes(whole)}: {what} the budget of {_minutes(budget)}"
            )
        return lines


def _by(costs: Mapping[str, Cost], key: Callable[[str], str]) -> dict[str, Cost]:
    """The costs of the tests that have one key, added up."""
    added: defaultdict[str, Cost] = defaultdict(Cost)
    for test, cost in costs.items():
        added[key(test)].add(cost.wall, cost.cpu)
    return added


def _folder(test: str) -> str:
    """The folder below tests/ that a test is in, or tests/ itself."""
    return "/".join(test.partition("::")[0].split("/")[:-1][:2])


def _cpu_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + forked.cpu_seconds()


def _machine_seconds() -> tuple[float, float]:
    """What all cores have been busy, and what they could have been, since boot."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    ticks = os.sysconf("SC_CLK_TCK")
    return (sum(fields) - idle) / ticks, sum(fields) / ticks


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s"
