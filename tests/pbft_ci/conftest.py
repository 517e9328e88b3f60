"""The distributions and the environment that these tests share; built once a run.

The workers of a run share them too: whoever needs one first makes it. Nobody changes them.
"""

import os
from pathlib import Path

import pytest

from scripts.folders import ROOT, exclusive
from tests.pbft_ci.installation import Installation, build, install


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout."""
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = shared_folder(tmp_path_factory)
    with exclusive(folder / "wheel.lock"):
        made = folder / "wheel"
        if not made.exists():
            draft = folder / "wheel-draft"
            draft.mkdir(exist_ok=True)
            build(ROOT, "wheel", draft)
            draft.rename(made)
    (file,) = made.iterdir()
    return file


@pytest.fixture(scope="session")
def installation(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An environment with the wheel."""
    folder = shared_folder(tmp_path_factory)
    with exclusive(folder / "installation.lock"):
        # its programs name the folder they are in, so it cannot be renamed when it is ready
        ready = folder / "installation.ready"
        if not ready.exists():
            install(wheel, folder / "venv")
            ready.touch()
    return Installation(folder / "venv")


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run, the same for all of its workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder
