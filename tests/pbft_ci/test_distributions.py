"""What is in the wheel and in the source distribution."""

import subprocess
import tarfile
import zipfile
from pathlib import Path

from common.version import VERSION
from scripts.folders import ROOT
from tests.pbft_ci.installation import Installation, build

# What the commands import, in the wheel and in a checkout.
SHIPPED = {"pbft", "ci", "driver", "common", "node", "client"}
# What the commands read beside it.
READ = {"example-config"}
# What runs in a checkout only.
NOT_SHIPPED = {"simulator", "bench", "scripts", "tests"}
TOP_LEVEL = "pbft_ci/top_level/"
SHARED = f"pbft_ci-{VERSION}.data/data/share/pbft-ci/"


def contents(wheel: Path) -> dict[str, bytes]:
    """The files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def in_checkout(*folders: str) -> dict[str, bytes]:
    """The files of these folders: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name: (ROOT / name).read_bytes() for name in listed.stdout.splitlines()}


def test_the_wheel_has_all_files_of_the_packages_and_no_others(wheel: Path) -> None:
    shipped = {f"{TOP_LEVEL}{name}": held for name, held in in_checkout(*SHIPPED, *READ).items()}
    found = contents(wheel)
    assert {name: held for name, held in found.items() if name.startswith(TOP_LEVEL)} == shipped
    # by suffix, so that this cannot compare nothing with nothing
    assert {Path(name).suffix for name in shipped} >= {
        ".py",
        ".html",
        ".css",
        ".js",
        ".svg",
        ".yml",
    }


def test_each_package_of_the_checkout_is_shipped_or_is_not() -> None:
    """A new one must be decided about, in pyproject.toml."""
    packages = {Path(name).parts[0] for name in in_checkout("*/__init__.py")}
    assert packages == SHIPPED | NOT_SHIPPED | {"pbft_ci"}


def test_operators_get_what_they_copy_or_load(wheel: Path) -> None:
    found = contents(wheel)
    files = {
        **in_checkout("example-config", "deploy"),
        "pipeline.schema.json": (ROOT / "docs" / "pipeline.schema.json").read_bytes(),
        "verify_build.py": (ROOT / "scripts" / "verify_build.py").read_bytes(),
    }
    shared = {f"{SHARED}{name}": held for name, held in files.items()}
    assert f"{SHARED}example-config/egress.nft" in shared
    assert f"{SHARED}deploy/systemd/pbft-ci-node.service" in shared
    assert {name: held for name, held in found.items() if name.startswith(SHARED)} == shared


def test_a_site_packages_gets_one_name_of_ours(installation: Installation) -> None:
    names = {path.name for path in installation.packages.iterdir()} - {"libraries.pth"}
    assert names == {"pbft_ci", f"pbft_ci-{VERSION}.dist-info"}


def test_the_source_distribution_makes_the_same_wheel(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert source.name == f"pbft_ci-{VERSION}"
    again = build(source, "wheel", tmp_path / "wheel")
    assert contents(again) == contents(wheel)
    assert not [name for name in NOT_SHIPPED - {"scripts"} if (source / name).exists()]
