"""lint: check a pipeline file offline, in the words that the nodes would use; or lock files."""

import argparse
import re
import sys
import tomllib
from pathlib import Path

import msgspec

from ci.limits import Limits
from client.commands.outcome import EXIT_DONE, EXIT_NOT_PASSED, EXIT_WRONG, CommandFailed
from client.commands.targets import Commands
from common.configuration.config import load_cluster_config
from common.dependencies.lock_file import LOCK_BYTES_MAX, Tool
from common.dependencies.reading import read_lock, tool_of
from common.pipeline.pipeline_file import (
    PIPELINE_BYTES_MAX,
    PIPELINE_FILE,
    Pipeline,
    PipelineInvalid,
    parse_pipeline,
)
from common.safe_text import escape_controls

PROJECT_BYTES_MAX = 256 * 1024
# What asks git for a version while it builds a package, and the variable that gives it one, if any.
VERSIONS_FROM_GIT = {
    "setuptools-scm": "SETUPTOOLS_SCM_PRETEND_VERSION",
    "hatch-vcs": "SETUPTOOLS_SCM_PRETEND_VERSION",
    "flit-scm": "SETUPTOOLS_SCM_PRETEND_VERSION",
    "pbr": "PBR_VERSION",
    "poetry-dynamic-versioning": "POETRY_DYNAMIC_VERSIONING_BYPASS",
    "versioningit": "",
}
_NAME = re.compile(r"[A-Za-z0-9._-]*")


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser(
        "lint",
        parents=[common],
        description="Check the file, and its sizes and times against the limits of --cluster (else"
        " against the default limits). Exit code 0: it is valid; 1: it is not valid, with a line"
        " for each mistake; 2: it cannot be read.",
    )
    parser.add_argument(
        "file",
        nargs="?",
        default=PIPELINE_FILE,
        metavar="FILE",
        help=f"the pipeline file (default: {PIPELINE_FILE}); - reads it from stdin",
    )
    parser.add_argument("--cluster", type=Path, metavar="FILE", help="the network's cluster file")
    parser.add_argument(
        "--dependencies",
        nargs="+",
        metavar="LOCK_FILE",
        help="check these lock files instead: whether each package is pinned by a digest. The name"
        " tells the tool (requirements.txt, package-lock.json, go.sum, Cargo.lock, NAME.lock.yaml);"
        f" else write TOOL:FILE, with one of {', '.join(Tool)}",
    )
    parser.set_defaults(run=_lint)


def _lint(options: argparse.Namespace) -> int:
    if options.dependencies:
        # each of them is told about, also behind one with flaws
        flawed = [name for name in options.dependencies if not _is_pinned(name)]
        return EXIT_NOT_PASSED if flawed else EXIT_DONE
    if options.cluster is None:
        limits = Limits()
    else:
        limits = load_cluster_config(options.cluster).limits_as(Limits)
    name = "stdin" if options.file == "-" else escape_controls(options.file)
    found = parse_pipeline(_read(options.file, PIPELINE_BYTES_MAX), limits)
    if isinstance(found, PipelineInvalid):
        print("\n".join(msgspec.structs.replace(found, file=name).texts))
        return EXIT_NOT_PASSED
    steps = ", ".join(step.name for step in found.steps)
    of_each = [cell.pipeline for cell in found.cells] or [found]
    images = dict.fromkeys(image for one in of_each for image in one.images(one.steps))
    shown = f"image{'s' if len(images) > 1 else ''} {', '.join(images)}; steps {steps}"
    if found.services:
        shown += f"; services {', '.join(service.name for service in found.services)}"
    if found.caches:
        shown += f"; caches {', '.join(cache.name for cache in found.caches)}"
    if found.cells:
        shown += f"; cells {' '.join(cell.name for cell in found.cells)}"
    print(f"{name}: valid: {shown}")
    print(f"{name}: checked against {_whose_limits(options)}")
    if options.file != "-":
        _warn_of_cached_files(Path(options.file).parent, found)
        if found.clone is None:
            _warn_of_versions(Path(options.file).parent / "pyproject.toml", found)
    return EXIT_DONE


def _is_pinned(given: str) -> bool:
    """Whether a lock file pins everything; prints what it pins, or each flaw."""
    prefix, _, rest = given.partition(":")
    tool, file = (Tool(prefix), rest) if rest and prefix in set(Tool) else (None, given)
    tool = tool or tool_of(Path(file).name)
    name = escape_controls(file)
    if tool is None:
        raise CommandFailed(
            f"{name}: the name tells no tool: write TOOL:{name}, with one of {', '.join(Tool)}",
            EXIT_WRONG,
        )
    found = read_lock(tool, _read(file, LOCK_BYTES_MAX))
    for flaw in found.flaws:
        print(f"{name}: {flaw.text}")
    if found.are_more:
        print(f"{name}: and more like these")
    if not found.flaws:
        count = len(found.inputs)
        print(f"{name}: valid: {tool} pins {count} {'input' if count == 1 else 'inputs'}")
    return not found.flaws


def _whose_limits(options: argparse.Namespace) -> str:
    """Whose limits they are: nobody is asked for those that operators changed since."""
    if options.cluster is None:
        return "the default limits; --cluster takes those of a cluster file"
    file = escape_controls(str(options.cluster))
    return f"the limits of {file}, with which its cluster began; limits show has those of now"


def _warn_of_cached_files(folder: Path, pipeline: Pipeline) -> None:
    """Say which files that caches name are not beside the pipeline file."""
    for name in sorted({name for cache in pipeline.caches for name in cache.files}):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            print(
                f"{escape_controls(str(path))}: warning: is no plain file here; if the commit has"
                " none either, the build is pipeline_invalid: a cache names it"
            )


def _warn_of_versions(file: Path, pipeline: Pipeline) -> None:
    """Say if a project asks git for its version, and no step sets a variable that gives it one."""
    try:
        with file.open("rb") as stream:
            text = stream.read(PROJECT_BYTES_MAX).decode()
        needed = tomllib.loads(text)["build-system"]["requires"]
        tools = {_NAME.match(entry)[0].lower() for entry in needed}  # type: ignore[index]
    except (OSError, ValueError, LookupError, TypeError):
        # no such project, or one that its own tools will complain about
        return
    variables = {name for step in pipeline.steps for name, _ in step.environment}
    for tool in sorted(re.sub(r"[-_.]+", "-", tool) for tool in tools):
        variable = VERSIONS_FROM_GIT.get(tool)
        if variable is None or (variable and any(n.startswith(variable) for n in variables)):
            continue
        or_set = f", or set {variable} in environment" if variable else ""
        print(
            f"{escape_controls(str(file))}: warning: {tool} asks git for the version, and without"
            f" clone a build has no .git: write clone: {{depth: full, tags: true}}{or_set}"
            ' ("The history" in docs/PIPELINES.md)'
        )


def _read(file: str, bytes_max: int) -> bytes:
    """At most as many bytes as the file may have, and one more, which makes it invalid."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(bytes_max + 1)
        with Path(file).open("rb") as stream:
            return stream.read(bytes_max + 1)
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read ({error.strerror})", EXIT_WRONG) from error
