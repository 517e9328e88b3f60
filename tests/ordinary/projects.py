"""Six projects that exist, each built twice by four nodes with Docker: run by hand.

`python -m tests.ordinary.projects [NAME ...]` prints a row for each. The pipeline files are those
of docs/PROJECTS.md. Sources and packages come from the registries of Debian and Python that this
machine's own clients use, are kept in run/cache/, and are refused if their hash is another one.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import docker.errors
import msgspec

from common.pipeline.pipeline_file import PIPELINE_FILE
from scripts.base_image import NoBaseImage, has_image
from scripts.debian_image import PACKAGES, SUITE, ensure_debian_image
from scripts.docker_engine import NoEngine, ensure_engine
from scripts.folders import ROOT, RUN, exclusive
from scripts.harness import Network, NetworkFailed, ask
from tests.ordinary.documented import examples
from tests.ordinary.operator_settings import operator_settings
from tests.ordinary.service_images import ensure_service_image

DOCUMENT = ROOT / "docs" / "PROJECTS.md"
SOURCES = RUN / "cache" / "sources"
FETCH_SECONDS_MAX = 300
GIT_SECONDS_MAX = 60
# Four replicas fetch packages and build on what may be two cores.
BUILD_SECONDS_MAX = 1800
PIPELINE_LINES_MAX = 25
LOG_LINES_SHOWN = 40
POSTGRES = "postgres:16"
RUST = "rust:1.63"
# Names that the document's pipeline files use. Each is an image of Debian's packages here: that of
# all ordinary projects, which the other tests need too, and these packages.
NAMED_IMAGES = {
    "python:3.12-slim": (),
    "node:20": ("npm",),
    "registry.example.org/c-tools:12": ("ccache", "cmake"),
    "registry.example.org/go-tools:12": ("golang-go", "gotestsum"),
    RUST: ("cargo",),
}
_ENTRIES = re.compile(r'pbftci_caches\{what="entries"\} [1-9]')
_RESTORED = re.compile(r"cache ([^:\s]+): \d+ bytes in ")


class NoSource(RuntimeError):
    """A project's source cannot be had from here; the text says why."""


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """Where a project's source is. tag: of the commit that has it; what is made is left out."""

    name: str
    # the registry's name of the package, and the version
    package: str
    version: str
    sha256: str
    tag: str
    # of PyPI, else of Debian
    is_python: bool = True
    cases_min: int = 1
    # how the path of the one artifact begins
    artifact: str = ""


PROJECTS = (
    Project(
        name="itsdangerous",
        package="itsdangerous",
        version="2.2.0",
        sha256="e0050c0b7da1eea53ffaf149c0cfbb5c6e2e2b69c4bef22c81fa6eb73e5f6173",
        tag="2.2.0",
        cases_min=100,
    ),
    Project(
        name="bytes",
        package="node-bytes",
        version="3.1.2-1",
        sha256="c95aa9c74e58721ab479c6858b1cdc6ffb887142f00acbf89096392a5d1ae9bb",
        tag="3.1.2",
        is_python=False,
        cases_min=10,
    ),
    Project(
        name="cJSON",
        package="cjson",
        version="1.7.15-1+deb12u4",
        sha256="5308fd4bd90cef7aa060558514de6a1a4a0819974a26e6ed13973c5f624c24b2",
        tag="v1.7.15",
        is_python=False,
        cases_min=10,
    ),
    Project(
        name="pflag",
        package="golang-github-spf13-pflag",
        version="1.0.6~git20210604-d5e0c0615ace-1",
        sha256="9b21056481ebf33e78a80ae999a714abb29392a5995a515bc8fefd6d88b6b204",
        tag="v1.0.5",
        is_python=False,
        cases_min=50,
    ),
    Project(
        name="pg8000",
        package="pg8000",
        version="1.31.2",
        sha256="1ea46cf09d8eca07fe7eaadefd7951e37bee7fabe675df164f1a572ffb300876",
        tag="1.31.2",
        cases_min=100,
    ),
    Project(
        name="pluggy",
        package="pluggy",
        version="1.5.0",
        sha256="2cffa88e94fdc978c4c574f15f9e59b7f4201d439195c3715ca9e2486f1d0cf1",
        tag="1.5.0",
        cases_min=50,
        artifact="dist/pluggy-1.5.1.dev1+g",
    ),
)


class Row(msgspec.Struct, frozen=True):
    """What two builds of a project came to."""

    name: str
    lines: int
    # of both builds
    seconds: tuple[float, float]
    outcomes: tuple[str, str]
    # Of the second one: caches that the replicas found, all together; test cases that they agree
    # on; replicas that agree
    hits: int
    passed: int
    total: int
    agreeing: int
    artifacts: tuple[str, ...]

    def in_words(self) -> str:
        """A line of the table."""
        first, second = self.seconds
        return (
            f"{self.name:<13} {self.lines:>5} {self.passed:>6}/{self.total:<6}"
            f" {first:>7.1f} s {second:>8.1f} s {self.hits:>5}, {self.outcomes[1]}"
            f" by {self.agreeing} of 4"
        )

    def problems(self, project: Project) -> list[str]:
        """What is not as it should be, a line each."""
        checks = {
            f"has {self.lines} lines": self.lines <= PIPELINE_LINES_MAX,
            f"is {' and '.join(self.outcomes)}": self.outcomes == ("passed", "passed"),
            f"has {self.total} agreed test cases": self.total >= project.cases_min,
            "no replica found a cache": self.hits > 0,
            f"has the artifacts {self.artifacts}": all(
                path.startswith(project.artifact) and ".d20" not in path for path in self.artifacts
            ),
        }
        return [f"{self.name}: {what}" for what, is_fine in checks.items() if not is_fine]


HEADING = "project       lines  tests agreed   first     second  caches found, verdict"


def fetch(project: Project) -> Path:
    """The archive of a project's source, kept in run/cache. Raises NoSource, OSError."""
    SOURCES.mkdir(parents=True, exist_ok=True)
    kept = SOURCES / project.sha256
    with exclusive(SOURCES.with_suffix(".lock")):
        if not kept.exists():
            with tempfile.TemporaryDirectory(dir=SOURCES) as folder:
                _download(project, Path(folder))
                found = {
                    hashlib.sha256(file.read_bytes()).hexdigest(): file
                    for file in Path(folder).iterdir()
                    if file.is_file()
                }
                if project.sha256 not in found:
                    raise NoSource(f"{project.name}: no file with SHA-256 {project.sha256} came")
                found[project.sha256].rename(kept)
    return kept


def _download(project: Project, folder: Path) -> None:
    """Raises NoSource."""
    if project.is_python:
        run_client(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"],
            ["--no-binary=:all:", f"--dest={folder}", f"{project.package}=={project.version}"],
        )
        return
    wanted = f"{project.package}={project.version}"
    run_apt(["source", "--download-only", "--tar-only", wanted], folder)


def run_apt(arguments: Sequence[str], folder: Path) -> None:
    """Run apt-get in that folder. Raises NoSource, OSError."""
    # a list of sources of our own: the machine's may have none, and stays as it is
    lists = SOURCES / "apt"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "sources.list").write_text(
        "".join(
            f"{kind} [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
            f" http://deb.debian.org/debian {SUITE} main\n"
            for kind in ("deb", "deb-src")
        )
    )
    apt = [
        "apt-get",
        "--quiet",
        f"-oDir::Etc::sourcelist={folder / 'sources.list'}",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State::lists={lists}",
        "-oAPT::Sandbox::User=root",
    ]
    run_client(apt, ["update"])
    run_client(apt, arguments, folder)


def run_client(command: Sequence[str], more: Sequence[str], folder: Path | None = None) -> None:
    """Run a registry's client in that folder. Raises NoSource."""
    try:
        done = subprocess.run(
            [*command, *more],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoSource(str(error)) from error
    if done.returncode != 0:
        raise NoSource(f"{command[0]}: {' '.join(done.stderr.split())[-300:]}")


def make_repository(project: Project, pipeline: str, folder: Path) -> Path:
    """A bare repository: the source with its tag, and a commit with the pipeline file on it."""
    work = unpack(project, folder)
    return publish(work, project, pipeline)


def unpack(project: Project, folder: Path) -> Path:
    """A folder with the project's source. Raises NoSource, OSError."""
    work = folder / "work"
    with tarfile.open(fetch(project)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    unpacked.rename(work)
    # a release has it, the repository that it was made from has not
    (work / "PKG-INFO").unlink(missing_ok=True)
    return work


def publish(work: Path, project: Project, pipeline: str) -> Path:
    """A bare repository of that folder, which is removed, as `make_repository` says."""
    folder, bare = work.parent, work.parent / f"{project.name}.git"
    _git(work, "init", "--quiet", "--initial-branch=master")
    _commit(work, "Release")
    _git(work, "tag", "--annotate", "--message=release", project.tag)
    (work / PIPELINE_FILE).write_text(pipeline)
    _commit(work, "Build with PBFT/CI")
    _git(folder, "clone", "--quiet", "--bare", str(work), str(bare))
    shutil.rmtree(work)
    return bare


def _commit(work: Path, message: str) -> None:
    # without what a release has and .gitignore names, such as a file with the version
    _git(work, "add", "--all")
    _git(work, "commit", "--quiet", f"--message={message}")


def _git(folder: Path, *arguments: str) -> None:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_NAME": "example" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "example@pbft-ci.invalid" for who in ("AUTHOR", "COMMITTER")},
    }
    subprocess.run(
        ["git", *arguments], cwd=folder, check=True, env=environment, timeout=GIT_SECONDS_MAX
    )


@contextmanager
def named_images(engine: docker.DockerClient, projects: Sequence[str]) -> Iterator[None]:
    """Images under the names that these projects use: the engine's own, else made, and unnamed.

    Raises NoBaseImage, OSError, docker.errors.DockerException.
    """
    text = "".join(examples(DOCUMENT)[project][PIPELINE_FILE] for project in projects)
    named: list[str] = []
    try:
        for name in (*NAMED_IMAGES, POSTGRES):
            if f"image: {name}\n" not in text or has_image(engine, name):
                continue
            if name == POSTGRES:
                ours = ensure_service_image(engine, "postgres")
            else:
                ours = ensure_debian_image(engine, (*PACKAGES, *NAMED_IMAGES[name]))
            engine.images.get(ours).tag(name)
            named.append(name)
        yield
    finally:
        for name in named:
            engine.images.remove(name)


def build_twice(project: Project, settings: Mapping[str, object]) -> Row:
    """Have a network of four nodes build it twice; nothing is left of it. settings: of the nodes.

    Raises NetworkFailed, NoSource, OSError.
    """
    with tempfile.TemporaryDirectory(prefix="pbft-ci-") as folder:
        return _build_twice(project, Path(folder), settings)


def _build_twice(project: Project, folder: Path, settings: Mapping[str, object]) -> Row:
    pipeline = examples(DOCUMENT)[project.name][PIPELINE_FILE]
    repository = make_repository(project, pipeline, folder)
    entry = {"url": str(repository), "local_images": [*NAMED_IMAGES, POSTGRES]}
    overrides: dict[str, dict[str, object]] = {
        "node": {**settings, "repositories": [entry]},
        "cluster": {"limits": {"build_seconds_max": 900, "deadline_seconds": 1800}},
    }
    network = Network(folder / "n", repository, executor="docker", overrides=overrides)
    with network:
        network.start()
        first = second = _build(network)
        if first.outcome == "passed":
            network.wait_until(
                lambda: _with_entries(network) >= first.agreeing,
                lambda: f"caches at {first.agreeing} nodes (seen at {_with_entries(network)})",
                BUILD_SECONDS_MAX,
            )
            second = _build(network)
        counts = second.counts or {}
        return Row(
            name=project.name,
            lines=len(pipeline.splitlines()),
            seconds=(first.seconds, second.seconds),
            hits=second.hits,
            passed=counts.get("passed", 0),
            total=counts.get("total") or 0,
            outcomes=(first.outcome, second.outcome),
            agreeing=second.agreeing,
            artifacts=second.artifacts,
        )


class Built(msgspec.Struct, frozen=True):
    """What one build came to. hits: caches that were found, by all replicas together."""

    seconds: float
    outcome: str
    agreeing: int
    hits: int
    artifacts: tuple[str, ...]
    counts: dict[str, Any] | None


def _build(network: Network) -> Built:
    """A build with all ballots and logs. Raises NetworkFailed."""
    began_at = time.monotonic()
    build = network.post("master")
    verdict = network.verdict(build, BUILD_SECONDS_MAX)["verdict"]
    seconds = time.monotonic() - began_at
    view = network.complete(build, seconds=BUILD_SECONDS_MAX)
    if verdict["outcome"] != "passed":
        sys.stderr.write(_end_of_log(network, build))
    logs = [_log_of(network, name, build) for name in network.node_names]
    tests = ask(f"{network.gateway_url}/api/v1/builds/{build}/tests").json()
    return Built(
        seconds=seconds,
        outcome=verdict["outcome"],
        agreeing=sum(ballot["outcome"] == verdict["outcome"] for ballot in view["ballots"]),
        hits=sum(len(_RESTORED.findall(log)) for log in logs),
        artifacts=tuple(artifact["path"] for artifact in view["artifacts"]),
        counts=tests.get("counts"),
    )


def _with_entries(network: Network) -> int:
    """The nodes that have a cache in store: they pack what a build left after its ballot."""
    pages = [network.node(name, "/metrics").body.decode() for name in network.node_names]
    return sum(bool(_ENTRIES.search(page)) for page in pages)


def _log_of(network: Network, name: str, build: str) -> str:
    (file,) = (network.data_directory(name) / "builds").glob(f"{build}-*/log")
    return file.read_text(errors="replace")


def _end_of_log(network: Network, build: str) -> str:
    log = _log_of(network, network.node_names[0], build)
    return "".join(f"{line}\n" for line in log.splitlines()[-LOG_LINES_SHOWN:])


def main() -> int:
    """`python -m tests.ordinary.projects [NAME ...]`: exit code 0 if all are as they should be."""
    names = [project.name for project in PROJECTS]
    parser = argparse.ArgumentParser(
        prog="python -m tests.ordinary.projects", description="Build six projects that exist."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    chosen = parser.parse_args().names or names
    if unknown := set(chosen) - set(names):
        parser.error(f"no such project: {', '.join(sorted(unknown))}")
    problems = []
    try:
        # the nodes find it as this program does
        os.environ["DOCKER_HOST"] = ensure_engine().host
        with named_images(docker.from_env(), chosen):
            print(HEADING, flush=True)  # noqa: T201 - what it is run for
            for project in PROJECTS:
                if project.name in chosen:
                    row = build_twice(project, operator_settings())
                    print(row.in_words(), flush=True)  # noqa: T201
                    problems += row.problems(project)
    except (NoEngine, NoSource, NoBaseImage, NetworkFailed, OSError) as error:
        problems.append(f"no more rows: {error}")
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
