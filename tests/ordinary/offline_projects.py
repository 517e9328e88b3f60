"""Four projects that exist, built by four nodes without a network, from lock files: run by hand.

`python -m tests.ordinary.offline_projects [NAME ...]` prints a row for each. Each node has a mirror
of its own, and the last one's sends other bytes of one file. The pipeline files are those of
docs/PROJECTS.md. Registries of Go modules and of crates are not asked: these mirrors serve what
Debian's packages have of them.
"""

import argparse
import base64
import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import docker
import msgspec
from packaging.utils import parse_sdist_filename, parse_wheel_filename

from common.pipeline.pipeline_file import PIPELINE_FILE
from node.dependencies.input_store import digest_of
from scripts.base_image import NoBaseImage
from scripts.docker_engine import NoEngine, ensure_engine
from scripts.harness import Network, NetworkFailed, ask
from tests.node.dependencies.mirror import Mirror, running_mirror
from tests.ordinary.documented import examples
from tests.ordinary.projects import (
    BUILD_SECONDS_MAX,
    DOCUMENT,
    NAMED_IMAGES,
    PROJECTS,
    NoSource,
    Project,
    named_images,
    publish,
    run_apt,
    run_client,
    unpack,
)

# as the document's headings name them
SUFFIX = " offline"
NODES = 4
LIAR = f"node{NODES - 1}"
TOOLS = ("pip", "npm", "go", "cargo")
ERRWRAP, ERRWRAP_VERSION = "github.com/hashicorp/errwrap", "v1.1.0"
# name, version, crates that it needs
CRATES = (
    ("autocfg", "1.1.0", ()),
    ("num-traits", "0.2.15", ("autocfg",)),
)

Files = dict[str, bytes]


class OfflineProject(msgspec.Struct, frozen=True, kw_only=True):
    """prepare: writes lock files into the project's folder, and gives what mirrors serve by path.

    It may use the folder beside the project's own.
    """

    source: Project
    prepare: Callable[[Path], Files]
    inputs_min: int

    @property
    def name(self) -> str:
        """As the document's heading and the command line have it."""
        return f"{self.source.name}{SUFFIX}"


class OfflineRow(msgspec.Struct, frozen=True):
    """What a build came to. liar: what the node found whose mirror sent other bytes."""

    name: str
    inputs: int
    seconds: float
    outcome: str
    agreeing: int
    liar: str
    passed: int

    def in_words(self) -> str:
        """A line of the table."""
        return (
            f"{self.name:<22} {self.inputs:>6} {self.passed:>6} {self.seconds:>7.1f} s"
            f"  {self.outcome} by {self.agreeing} of {NODES}; {LIAR}: {self.liar}"
        )

    def problems(self, project: OfflineProject) -> list[str]:
        """What is not as it should be, a line each."""
        checks = {
            f"is {self.outcome}": self.outcome == "passed",
            f"has {self.agreeing} that agree": self.agreeing == NODES - 1,
            f"has {self.inputs} inputs": self.inputs >= project.inputs_min,
            f"{LIAR} {self.liar}": self.liar == "found dependencies_unavailable",
            f"has {self.passed} agreed test cases": self.passed >= project.source.cases_min,
        }
        return [f"{self.name}: {what}" for what, is_fine in checks.items() if not is_fine]


HEADING = "project                inputs  tests      time    verdict"


def prepare_pip(work: Path) -> Files:
    """Wheels of what the tests need, one of them as a source archive, and what builds those."""
    download = [sys.executable, "-m", "pip", "download", "--quiet"]
    locks = {
        "tests": ["--no-binary=six", "--requirement=requirements/tests.txt"],
        "build": ["--no-deps", "flit_core<4", "setuptools<81", "wheel<0.46"],
    }
    served: Files = {}
    for lock, wanted in locks.items():
        folder = work.parent / lock
        run_client(download, [f"--dest={folder}", *wanted], work)
        lines = [_pip_line(file, served) for file in sorted(folder.iterdir())]
        (work / "requirements" / f"{lock}.lock").write_text("".join(lines))
    return served


def _pip_line(file: Path, served: Files) -> str:
    """A line of a lock file. The file and its page are served from now on."""
    if file.suffix == ".whl":
        name, version = parse_wheel_filename(file.name)[:2]
    else:
        name, version = parse_sdist_filename(file.name)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    served[f"/pip/{name}/"] = f'<a href="{file.name}#sha256={digest}">{file.name}</a>'.encode()
    served[f"/pip/{name}/{file.name}"] = file.read_bytes()
    return f"{name}=={version} --hash=sha256:{digest}\n"


def prepare_npm(work: Path) -> Files:
    """The packages that npm itself resolves and fetches, out of its cache."""
    cache = work.parent / "cache"
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", f"--cache={cache}"]
    run_client(["npm", "install", "--package-lock-only"], quiet, work)
    run_client(["npm", "ci"], quiet, work)
    run_client(["rm", "-r"], ["node_modules"], work)
    served: Files = {}
    lock = json.loads((work / "package-lock.json").read_bytes())
    for key, entry in lock["packages"].items():
        if not key:
            continue
        name = entry.get("name") or key.rpartition("node_modules/")[2]
        algorithm, _, value = entry["integrity"].partition("-")
        digest = base64.b64decode(value).hex()
        file = cache / "_cacache/content-v2" / algorithm / digest[:2] / digest[2:4] / digest[4:]
        if not file.exists():
            # for another system: npm does not fetch it, and nodes fetch what the lock file names
            run_client(["npm", "cache", "add"], [f"--cache={cache}", f"{name}@{entry['version']}"])
        last = name.rpartition("/")[2]
        served[f"/npm/{name}/-/{last}-{entry['version']}.tgz"] = file.read_bytes()
    return served


def prepare_go(work: Path) -> Files:
    """The one module that the project needs, in the version that Debian has."""
    source = Project(
        name="errwrap",
        package="golang-github-hashicorp-errwrap",
        version=f"{ERRWRAP_VERSION[1:]}-1",
        sha256="0d73891a7a179e50a142ac8832db97b17c792d29ae205b0e6aeedde4c43d51a4",
        tag=ERRWRAP_VERSION,
        is_python=False,
    )
    folder = work.parent / "errwrap"
    folder.mkdir()
    module = unpack(source, folder)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(each for each in module.rglob("*") if each.is_file()):
            top = f"{ERRWRAP}@{ERRWRAP_VERSION}"
            archive.writestr(f"{top}/{file.relative_to(module)}", file.read_bytes())
    parts = {"zip": packed.getvalue(), "mod": (module / "go.mod").read_bytes()}
    lines = []
    for part, of in (("zip", ""), ("mod", "/go.mod")):
        (folder / part).write_bytes(parts[part])
        digest = digest_of(folder / part, "h1:", part)
        lines.append(f"{ERRWRAP} {ERRWRAP_VERSION}{of} {digest}\n")
    (work / "go.sum").write_text("".join(lines))
    needed = (work / "go.mod").read_text()
    (work / "go.mod").write_text(needed.replace(f"{ERRWRAP} v1.0.0", f"{ERRWRAP} v1.1.0"))
    return {f"/go/{ERRWRAP}/@v/{ERRWRAP_VERSION}.{part}": data for part, data in parts.items()}


def prepare_cargo(work: Path) -> Files:
    """The crates that the project needs, as Debian's packages have them."""
    served: Files = {}
    lock = "version = 3\n"
    checksums = {}
    for name, version, _ in CRATES:
        data = _crate(debian_crate(name, version, work.parent))
        checksums[name] = hashlib.sha256(data).hexdigest()
        served[f"/cargo/{name}/{name}-{version}.crate"] = data
    for name, version, needs in (*CRATES, ("num-integer", "0.1.44", tuple(checksums))):
        lock += f'\n[[package]]\nname = "{name}"\nversion = "{version}"\n'
        if name in checksums:
            lock += 'source = "registry+https://github.com/rust-lang/crates.io-index"\n'
            lock += f'checksum = "{checksums[name]}"\n'
        if needs:
            lock += "dependencies = [\n" + "".join(f' "{each}",\n' for each in needs) + "]\n"
    (work / "Cargo.lock").write_text(lock)
    return served


def debian_crate(name: str, version: str, folder: Path) -> Path:
    """The folder of a crate's source. Raises NoSource, OSError."""
    package = f"librust-{name}-dev"
    into = folder / package
    into.mkdir()
    run_apt(["download", package], into)
    (archive,) = into.glob("*.deb")
    run_client(["dpkg-deb", "--extract"], [str(archive), str(into / "content")])
    return into / "content/usr/share/cargo/registry" / f"{name}-{version}"


def _crate(folder: Path) -> bytes:
    """A crate as a registry has it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file()):
            if file.name != ".cargo-checksum.json":
                archive.add(file, f"{folder.name}/{file.relative_to(folder)}")
    return gzip.compress(made.getvalue(), mtime=0)


_KNOWN = {project.name: project for project in PROJECTS}
OFFLINE_PROJECTS = (
    OfflineProject(source=_KNOWN["itsdangerous"], prepare=prepare_pip, inputs_min=8),
    OfflineProject(source=_KNOWN["bytes"], prepare=prepare_npm, inputs_min=250),
    OfflineProject(
        source=Project(
            name="go-multierror",
            package="golang-github-hashicorp-go-multierror",
            version="1.1.1-2",
            sha256="8d1bb3377310e8ffe4c7b5672c5de1eaed153402aebd15d6e5b9673c356a065f",
            tag="v1.1.1",
            is_python=False,
            cases_min=10,
        ),
        prepare=prepare_go,
        inputs_min=2,
    ),
    OfflineProject(
        source=Project(
            name="num-integer",
            package="librust-num-integer-dev",
            version="0.1.44-1",
            sha256="",
            tag="0.1.44",
            is_python=False,
            cases_min=0,
        ),
        prepare=prepare_cargo,
        inputs_min=2,
    ),
)


def build_offline(project: OfflineProject) -> OfflineRow:
    """Have a network of four nodes build it; nothing is left of it.

    Raises NetworkFailed, NoSource, OSError.
    """
    with tempfile.TemporaryDirectory(prefix="pbft-ci-") as folder, ExitStack() as stack:
        return _build_offline(project, Path(folder), stack)


def _build_offline(project: OfflineProject, folder: Path, stack: ExitStack) -> OfflineRow:
    if project.source.sha256:
        work = unpack(project.source, folder)
    else:
        work = folder / "work"
        debian_crate(project.source.name, project.source.tag, folder).rename(work)
        (work / ".cargo-checksum.json").unlink()
    served = project.prepare(work)
    # projects that keep no lock file say so there
    ignored = work / ".gitignore"
    if ignored.exists():
        lines = ignored.read_text().splitlines(keepends=True)
        ignored.write_text("".join(each for each in lines if each.strip("/\n") not in _LOCKS))
    repository = publish(work, project.source, examples(DOCUMENT)[project.name][PIPELINE_FILE])
    overrides: dict[str, dict[str, object]] = {
        "node": {"repositories": [{"url": str(repository), "local_images": _IMAGES}]},
        "cluster": {"limits": {"build_seconds_max": 900, "deadline_seconds": 1800}},
    }
    for number in range(NODES):
        mirror = stack.enter_context(running_mirror())
        _serve(mirror, served, is_liar=number == NODES - 1)
        overrides[f"node{number}"] = {
            "sources": [{"tool": tool, "url": f"{mirror.url}/{tool}"} for tool in TOOLS]
        }
    network = Network(folder / "n", repository, executor="docker", overrides=overrides)
    with network:
        network.start()
        began_at = time.monotonic()
        build = network.post("master")
        verdict = network.verdict(build, BUILD_SECONDS_MAX)["verdict"]
        seconds = time.monotonic() - began_at
        view = network.complete(build, seconds=BUILD_SECONDS_MAX)
        api = f"{network.gateway_url}/api/v1/builds/{build}"
        counts = ask(f"{api}/tests").json().get("counts") or {}
        states = {row["replica"]: row["state"] for row in view["replicas"]}
        if verdict["outcome"] != "passed":
            (log,) = (network.data_directory("node0") / "builds").glob(f"{build}-*/log")
            sys.stderr.write(log.read_text(errors="replace")[-4000:])
        inputs = ask(f"{api}/inputs").json().get("counts", ())
        return OfflineRow(
            name=project.name,
            inputs=sum(count for _, count in inputs),
            seconds=seconds,
            outcome=verdict["outcome"],
            agreeing=sum(ballot["outcome"] == verdict["outcome"] for ballot in view["ballots"]),
            liar=states[LIAR],
            passed=counts.get("passed", 0),
        )


_LOCKS = ("package-lock.json", "Cargo.lock")
_IMAGES = list(NAMED_IMAGES)


def _serve(mirror: Mirror, files: Files, *, is_liar: bool) -> None:
    mirror.files = dict(files)
    if is_liar:
        # a module of Go stays the same with more bytes behind its archive: the hash is of its files
        chosen = max(path for path in files if not path.endswith(("/", ".zip")))
        mirror.files[chosen] += b"and more"


def _chosen(names: Iterable[str]) -> list[OfflineProject]:
    wanted = {name.removesuffix(SUFFIX) for name in names}
    return [each for each in OFFLINE_PROJECTS if not wanted or each.source.name in wanted]


def main() -> int:
    """`python -m tests.ordinary.offline_projects [NAME ...]`: 0 if all are as they should be."""
    names = [project.source.name for project in OFFLINE_PROJECTS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.ordinary.offline_projects",
        description="Build four projects that exist, offline.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    asked = parser.parse_args().names
    if unknown := set(asked) - set(names):
        parser.error(f"no such project: {', '.join(sorted(unknown))}")
    problems = []
    try:
        # the nodes find it as this program does
        os.environ["DOCKER_HOST"] = ensure_engine().host
        chosen = _chosen(asked)
        with named_images(docker.from_env(), [project.name for project in chosen]):
            print(HEADING, flush=True)  # noqa: T201 - what it is run for
            for project in chosen:
                row = build_offline(project)
                print(row.in_words(), flush=True)  # noqa: T201
                problems += row.problems(project)
    except (NoEngine, NoSource, NoBaseImage, NetworkFailed, OSError) as error:
        problems.append(f"no more rows: {error}")
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
