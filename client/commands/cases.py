"""tests: what replicas say of a build's test cases, and which cases of a repository are flaky."""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ci.case_results import case_sha256
from ci.flaky import CaseState
from client.commands.gateway_client import GatewayApi, run
from client.commands.outcome import EXIT_DONE, EXIT_WRONG, CommandFailed
from client.commands.targets import Commands, gateway_flags, gateway_to_read, repository_url
from common.english import counted
from common.new_file import new_file
from common.safe_text import escape_controls

CASES_LISTED = 500
BUILDS_LISTED = 30
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIGNS = {"failed": "x", "warned": "!", "passed": ".", "not failed": ".", "skipped": "s"}


def add(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the command of this module."""
    parser = commands.add_parser(
        "tests",
        parents=[common],
    )
    parser.add_argument(
        "build", metavar="BUILD", nargs="?", help="a build's id, or the beginning of it"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--failed", action="store_true", help="list only agreed failures")
    which.add_argument("--new", action="store_true", help="list only new failures")
    which.add_argument("--slowest", type=int, metavar="N", help="list the N slowest tests")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write the agreed canonical report to FILE, for verify --tests",
    )
    parser.add_argument(
        "--replica", metavar="NAME", help="with --report: write the report of this replica"
    )
    parser.add_argument(
        "--repository", metavar="URL", help="list the tests of this repository that are not healthy"
    )
    parser.add_argument(
        "--state", choices=[state.value for state in CaseState], help="list only these tests"
    )
    parser.add_argument(
        "--quarantined",
        action="store_true",
        help="with --repository: list the tests that its pipeline file quarantines",
    )
    parser.add_argument(
        "--case", metavar="ID", help="show what builds saw of this test; an id, or its SHA-256"
    )
    parser.add_argument("--json", action="store_true", help="print the gateway's JSON")
    gateway_flags(parser)
    parser.set_defaults(run=lambda options: run(_tests(options)))


async def _tests(options: argparse.Namespace) -> int:
    _check(options)
    async with gateway_to_read(options) as gateway:
        if options.case is not None:
            await _show_case(gateway, options)
        elif options.build is None:
            await _list(gateway, options)
        elif options.report is not None:
            await _write_report(gateway, options)
        else:
            await _show_build(gateway, options)
    return EXIT_DONE


def _check(options: argparse.Namespace) -> None:
    """Raises CommandFailed where the arguments do not go together."""
    of_build = options.failed or options.new or options.slowest is not None or options.report
    if options.build is None and of_build:
        raise CommandFailed("--failed, --new, --slowest and --report need a BUILD", EXIT_WRONG)
    if options.build is not None and (options.case or options.repository or options.state):
        raise CommandFailed(
            "a BUILD does not go with --case, --repository and --state; leave it out", EXIT_WRONG
        )
    if options.quarantined and (options.repository is None or options.state):
        raise CommandFailed("--quarantined needs a --repository, and no --state", EXIT_WRONG)
    if options.build is None and options.case is None and options.repository is None:
        raise CommandFailed("name a BUILD, a --repository or a --case", EXIT_WRONG)


async def _show_build(gateway: GatewayApi, options: argparse.Namespace) -> None:
    found = await gateway.build_cases(options.build, options.slowest)
    if options.json:
        print(json.dumps(found))
    elif options.slowest is not None:
        _print_table([(f"{case['seconds']:.3f} s", case["id"]) for case in found["slowest"]])
    else:
        _print_build(found, options)


def _print_build(found: dict[str, Any], options: argparse.Namespace) -> None:
    rows = found["cases"]
    is_all = not (options.failed or options.new)
    if not is_all:
        rows = [row for row in rows if row["agreed"] == "failed"]
    if options.new:
        rows = [row for row in rows if row["since"] == "new"]
    if is_all:
        print(summary_line(found))
        for report in found["reports"]:
            if report["is_left_out"]:
                print(f"{report['replica']} differs in more than a fifth of the tests: its machine")
    _print_table(
        (_squares(row["seen"]), row["since"] or row["agreed"], row["state"] or "-", row["id"])
        for row in rows
    )
    if is_all:
        for case in found["fixed"]:
            print(f"fixed: {escape_controls(case)}")


def summary_line(found: dict[str, Any]) -> str:
    """A build's tests in a line."""
    counts = found["counts"]
    if counts is None:
        return "no replica reported tests of this build"
    agreed = "agreed" if found["agreed_report_sha256"] else "the reports differ"
    counts = {**counts, "warned": counts["warned"] - counts["quarantined"]}
    told = [f"{number} {name}" for name, number in counts.items() if number and name != "total"]
    total = "" if counts["total"] is None else f"{counted(counts['total'], 'test')}, "
    return (
        f"{total}{agreed} ({counted(len(found['reports']), 'replica')}): {', '.join(told) or '-'}"
    )


async def _list(gateway: GatewayApi, options: argparse.Namespace) -> None:
    repository = repository_url(options)
    assert repository is not None, "it was looked for"
    if options.quarantined:
        _print_quarantined(await gateway.quarantined(repository), options)
        return
    cases = await gateway.cases(repository, options.state, CASES_LISTED)
    if options.json:
        print(json.dumps(cases))
        return
    if not cases:
        print(f"no test of this repository is {options.state or 'known not to be healthy'}")
    _print_table(
        (
            case["state"],
            f"{100 * case['score']:5.1f} %",
            f"{case['disagreements']} of {counted(case['observations'], 'build')}",
            ", ".join(one["replica"] for one in case["differed"]) or "-",
            case["first_commit"][:12],
            case["id"],
        )
        for case in cases
    )


def _print_quarantined(cases: list[Any], options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(cases))
        return
    if not cases:
        print("no test of this repository is quarantined")
    _print_table(
        (
            counted(case["days_left"], "day") if case["days_left"] > 0 else "over",
            case["until"],
            case["id"],
            case["reason"],
        )
        for case in cases
    )


async def _show_case(gateway: GatewayApi, options: argparse.Namespace) -> None:
    text: str = options.case
    sha256 = text if _SHA256.fullmatch(text) else case_sha256(text)
    found = await gateway.case_history(sha256, repository_url(options))
    if options.json:
        print(json.dumps(found))
        return
    case = found["case"]
    print(f"test        {escape_controls(case['id'])}")
    print(f"repository  {escape_controls(case['repository'])}")
    print(f"state       {case['state']}")
    print(f"differed    in {case['disagreements']} of {counted(case['observations'], 'build')}")
    for one in case["differed"]:
        print(f"            {one['replica']}: {counted(one['times'], 'time')}")
    print(f"score       {100 * case['score']:.1f} %")
    print(f"made red    {counted(case['made_red'], 'build')}")
    print(f"last seen   {case['last_seen']}")
    print(f"first       {case['first_commit']}")
    for name in found["elsewhere"]:
        print(f"also in     {escape_controls(name)}")
    builds = [build for build in found["builds"] if build["seen"]]
    _print_table(
        (_squares(b["seen"]), b["build"][:12], b["commit"][:12], b["decided"], b["branch"])
        for b in builds[:BUILDS_LISTED]
    )


async def _write_report(gateway: GatewayApi, options: argparse.Namespace) -> None:
    data = await gateway.case_report(options.build, options.replica)
    with new_file(options.report, 0o644) as file:
        file.write(data)
    print(f"{options.report}: {counted(len(data.splitlines()), 'test')}")


def _squares(seen: Iterable[dict[str, str]]) -> str:
    """A letter for each replica, in the order of their names."""
    return "".join(_SIGNS.get(one["outcome"], "?") for one in seen)


def _print_table(rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest text; the last one, which may be long, as it is."""
    table = [[escape_controls(text) for text in row] for row in rows]
    if not table:
        return
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]) - 1)]
    for row in table:
        padded = [text.ljust(width) for text, width in zip(row[:-1], widths, strict=True)]
        print("  ".join([*padded, row[-1]]))
