"""tests.leftovers: what a run must not leave is seen."""

import os
import subprocess
import sys
from pathlib import Path

from tests.leftovers import RUN_VARIABLE, mounts, processes
from tests.waiting import block_until

ROOT = Path(__file__).resolve().parent.parent
MARK = "0123456789abcdef"


def test_a_process_that_is_left_is_found_by_its_mark_and_by_no_other() -> None:
    """Also one that has changed its environment, session and name since its start."""
    program = "import os; os.environ.clear(); os.setsid(); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, RUN_VARIABLE: MARK},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert list(processes(MARK)) == [process.pid]
        assert "os.setsid()" in processes(MARK)[process.pid]
        assert processes(MARK[:-1]) == {}
        process.kill()
    block_until(lambda: processes(MARK) == {}, "its end")


def test_what_is_mounted_is_known() -> None:
    assert "/proc" in mounts()


def test_a_namespace_with_a_name_is_left_and_the_folder_of_names_is_not() -> None:
    line = "42 28 0:4 / {} rw shared:1 - nsfs nsfs rw"
    places = ("/run/netns", "/run/netns/left", "/mnt")
    mounted = mounts("\n".join(line.format(place) for place in places))
    assert mounted == {"/run/netns/left", "/mnt"}


def test_a_run_within_a_run_leaves_the_looking_to_the_outer_one(tmp_path: Path) -> None:
    """What other tests have on the machine while it ends would fail it."""
    (tmp_path / "test_inner.py").write_text(
        "import os\nfrom tests.leftovers import Leftovers, RUN_VARIABLE\n"
        "def test_it(pytestconfig):\n"
        "    plugins = pytestconfig.pluginmanager.get_plugins()\n"
        "    assert not any(isinstance(plugin, Leftovers) for plugin in plugins)\n"
        f"    assert os.environ[RUN_VARIABLE] == {MARK!r}\n"
    )
    inner = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", tmp_path, tmp_path],
        cwd=ROOT,
        env={**os.environ, RUN_VARIABLE: MARK},
        capture_output=True,
        text=True,
        check=False,
    )
    assert inner.returncode == 0, inner.stdout + inner.stderr
