"""The tables and plots of docs/SCALE.md, made of a report of the benches `members` and `links`.

python -m bench members links --json docs/scale.json
python -m bench.scale               prints the tables
python -m bench.scale --write       also puts them into docs/SCALE.md, and draws the plots
"""

import argparse
import bisect
import hashlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench import links, members
from bench.capacity import Cluster, Measured, Work, builds_per_hour, clusters_needed, years_of_disk
from bench.line_chart import Line, chart
from bench.report import Report, from_json, number
from bench.rows import Row
from ci.admission import room_refusal
from ci.limits import Limits, encode_limits
from pbft.genesis import PROTOCOL_MIN, Genesis, Member, new_view_bytes, window_max
from pbft.genesis import Cluster as CoreCluster
from scripts.folders import ROOT

PAGE = ROOT / "docs" / "SCALE.md"
REPORT = ROOT / "docs" / "scale.json"
MEMBERS_PLOT = ROOT / "docs" / "images" / "scale-members.svg"
LINKS_PLOT = ROOT / "docs" / "images" / "scale-links.svg"

# As example-config/ has it.
WINDOW = 256
# The most that `limits` takes.
OPEN_BUILDS_MOST = 10_000

WORK = Work(
    repositories=10_000,
    builds_per_repository_day=4,
    peak_share=0.15,
    build_seconds=300,
    build_cpu_seconds=150,
)
# What each replica has -> as a calculation takes it.
CLUSTERS = {
    "2 cores, 2 slots (the default)": Cluster(cores=2, slots=2),
    "16 cores, 16 slots": Cluster(cores=16, slots=16),
    "64 cores, 64 slots": Cluster(cores=64, slots=64),
    "256 cores, 256 slots": Cluster(cores=256, slots=256),
    "the same, and `open_builds_per_client_max: 256`": Cluster(
        cores=256, slots=256, open_builds=256
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Print the tables of a report, and write them into the page if asked; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description="Print the tables of docs/SCALE.md."
    )
    parser.add_argument("report", nargs="?", type=Path, default=REPORT, metavar="FILE")
    parser.add_argument(
        "--write", action="store_true", help="also write them into docs/SCALE.md, and its plots"
    )
    options = parser.parse_args(arguments)
    try:
        report = from_json(options.report.read_bytes())
        made = {name: make(report) for name, make in SECTIONS.items()}
    except (OSError, KeyError, msgspec.MsgspecError) as error:
        print(f"{options.report}: no whole report of `python -m bench members links`: {error!r}")
        return 1
    for name, text in made.items():
        print(f"{name}:\n\n{text}\n")
    if options.write:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), report), encoding="utf-8")
        for file, drawn in plots(report).items():
            file.write_text(drawn, encoding="utf-8")
    return 0


def filled(page: str, report: Report) -> str:
    """The page with all its tables from this report. Raises KeyError: a row is missing."""
    for name, make in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        text = f"{begin}\n{make(report)}\n{end}"
        page, count = pattern.subn(lambda _, text=text: text, page)  # type: ignore[misc]
        if count != 1:
            raise KeyError(f"{count} places for {name} in the page")
    return page


def plots(report: Report) -> dict[Path, str]:
    """The plots of this report by their files. Raises KeyError."""
    return {MEMBERS_PLOT: _members_plot(report), LINKS_PLOT: _links_plot(report)}


def measured(report: Report, replicas: int) -> Measured:
    """What the report says of so many replicas. Raises KeyError."""
    build = _of_members(report, members.BUILD)[replicas].figures
    deep = _of_members(report, members.DEEP)[replicas].figures
    disk = _of_members(report, members.DISK)[replicas].figures
    return Measured(
        replicas=replicas,
        replica_cpu_seconds=build[members.CPU_OF_ONE] / 1000,
        gateway_cpu_seconds=build[members.CPU_OF_GATEWAY] / 1000,
        orders_per_second=deep[members.PER_SECOND],
        node_bytes=disk[members.NODE_KIB] * 1024,
    )


# --- the tables ---------------------------------------------------------------------------------


def _machine(report: Report) -> str:
    machine = report.machine
    quick = " With `--quick`, so its figures mean nothing." if report.is_quick else ""
    return (
        f"Measured {report.began_at[:10]} with `{report.command}` at commit"
        f" {machine.commit or 'unknown'}: {machine.processor}, {machine.cores} cores,"
        f" {machine.file_system}, load {machine.load:g} at the start,"
        f" {report.seconds / 60:.0f} minutes.{quick}"
    )


def _noops(report: Report) -> str:
    alone, deep = _of_members(report, members.NOOP), _of_members(report, members.DEEP)
    return _table(
        (
            "replicas",
            "messages of an order",
            "KiB",
            "CPU of one replica",
            "against 4 (n - 1 would be)",
            "CPU, 64 under way",
            "against 4",
            "orders/s here",
            "p50 here",
        ),
        [
            (
                str(replicas),
                number(row.figures[members.MESSAGES]),
                number(row.figures[members.KIB]),
                f"{number(row.figures[members.CPU_OF_ONE])} ms",
                f"{_ratio(row)} ({_target(row)})",
                f"{number(deep[replicas].figures[members.CPU_OF_ONE])} ms",
                _ratio(deep[replicas]),
                number(deep[replicas].figures[members.PER_SECOND]),
                f"{1000 * row.figures[members.SECONDS]:.0f} ms",
            )
            for replicas, row in alone.items()
        ],
    )


def _builds(report: Report) -> str:
    return _table(
        (
            "replicas",
            "messages of a build",
            "KiB",
            "CPU of one replica",
            "against 4 (n - 1 would be)",
            "CPU of the gateway",
            "verdict here",
            "builds/s here, all replicas on two cores",
        ),
        [
            (
                str(replicas),
                number(row.figures[members.MESSAGES]),
                number(row.figures[members.KIB]),
                f"{number(row.figures[members.CPU_OF_ONE])} ms",
                f"{_ratio(row)} ({_target(row)})",
                f"{number(row.figures[members.CPU_OF_GATEWAY])} ms",
                f"{row.figures[members.SECONDS]:.2f} s",
                number(row.figures[members.PER_SECOND]),
            )
            for replicas, row in _of_members(report, members.BUILD).items()
        ],
    )


def _kept(report: Report) -> str:
    disks = _of_members(report, members.DISK)
    return _table(
        (
            "replicas",
            "a node's disk for a build",
            "the gateway's",
            "of it in the ledger",
            "the state",
            "a node's memory",
            "the gateway's",
            "a replica at rest: CPU",
            "messages/s",
            "KiB/s",
        ),
        [
            (
                str(replicas),
                f"{disks[replicas].figures[members.NODE_KIB]:.1f} KiB",
                f"{disks[replicas].figures[members.GATEWAY_KIB]:.1f} KiB",
                f"{disks[replicas].figures[members.LEDGER_BYTES]:,.0f} bytes",
                f"{disks[replicas].figures[members.STATE_KIB]:.0f} KiB",
                f"{row.figures[members.NODE_MIB]:.0f} MiB",
                f"{row.figures[members.GATEWAY_MIB]:.0f} MiB",
                f"{number(row.figures[members.IDLE_CPU])} ms/s",
                number(row.figures[members.IDLE_MESSAGES]),
                number(row.figures[members.IDLE_KIB]),
            )
            for replicas, row in _of_members(report, members.BUILD).items()
        ],
    )


def _links(report: Report) -> str:
    return _table(
        ("link, one way", "what", "measured", "links and timers, and CPU here", "ratio"),
        [
            (
                f"{row.figures[links.LINK]:g} ms",
                row.what.partition(": ")[2],
                f"{row.figures[links.SECONDS]:.2f} s",
                f"{row.figures[links.EXPECTED]:.2f} s",
                _ratio(row),
            )
            for row in _of_links(report)
        ],
    )


def _bounds(report: Report) -> str:
    """What the code allows, whatever the machine."""
    rows = []
    for replicas in _of_members(report, members.BUILD):
        genesis = _genesis(replicas, gateways=1)
        rows.append(
            (
                str(replicas),
                str((replicas - 1) // 3),
                number(open_builds_most(replicas, gateways=1)),
                number(open_builds_most(replicas, gateways=4)),
                number(window_max(genesis)),
                f"{new_view_bytes(genesis, genesis.window) / 2**20:.1f} MiB",
            )
        )
    return _table(
        (
            "replicas",
            "may be faulty",
            "largest `open_builds_max`, 1 gateway",
            "4 gateways",
            "largest `window`",
            f"largest NEW-VIEW with a window of {WINDOW}",
        ),
        rows,
    )


def open_builds_most(replicas: int, *, gateways: int) -> int:
    """The largest `open_builds_max` that other limits at their defaults leave room for."""
    cluster = CoreCluster(_genesis(replicas, gateways=gateways))
    allowed = range(1, OPEN_BUILDS_MOST + 1)
    return bisect.bisect_left(
        allowed,
        True,
        key=lambda builds: room_refusal(cluster, Limits(open_builds_max=builds)) is not None,
    )


def _genesis(replicas: int, *, gateways: int) -> Genesis:
    """As example-config/ has it, with made-up keys."""

    def member(name: str, role: str) -> Member:
        return Member(name, hashlib.sha256(name.encode()).digest(), (role,))

    return Genesis(
        PROTOCOL_MIN,
        tuple(member(f"node{index}", "replica") for index in range(replicas)),
        tuple(member(f"gateway{index}", "gateway") for index in range(gateways)),
        WINDOW // 2,
        WINDOW,
        WINDOW,
        encode_limits(Limits()),
    )


def _capacity(report: Report) -> str:
    found = measured(report, min(_of_members(report, members.BUILD)))
    rows = []
    for name, cluster in CLUSTERS.items():
        rates = builds_per_hour(found, cluster, WORK)
        first = min(rates, key=lambda part: rates[part])
        days = 24 * rates[first]
        rows.append(
            (
                name,
                *(number(rate) for rate in rates.values()),
                f"{number(rates[first])} ({first})",
                number(years_of_disk(found, cluster, days)),
                str(clusters_needed(found, cluster, WORK)),
            )
        )
    parts = builds_per_hour(found, next(iter(CLUSTERS.values())), WORK)
    return _table(
        (
            "each replica",
            *parts,
            "the cluster, builds/h",
            "years until its builds have 1 TB, if it is always full",
            "clusters",
        ),
        rows,
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


SECTIONS: dict[str, Callable[[Report], str]] = {
    "machine": _machine,
    "orders": _noops,
    "builds": _builds,
    "kept": _kept,
    "links": _links,
    "bounds": _bounds,
    "capacity": _capacity,
}


# --- the plots ----------------------------------------------------------------------------------


def _members_plot(report: Report) -> str:
    def relative(what: str) -> tuple[tuple[float, float], ...]:
        return tuple(
            (float(n), row.ratio.median)
            for n, row in _of_members(report, what).items()
            if row.ratio
        )

    first, *others = _of_members(report, members.NOOP)
    linear = tuple((float(n), (n - 1) / (first - 1)) for n in (first, *others))
    return chart(
        f"CPU of one replica, {first} replicas = 1",
        "replicas",
        [
            Line("an order", relative(members.NOOP), colour=0),
            Line("an order, 64 under way", relative(members.DEEP), colour=1),
            Line("a trivial build", relative(members.BUILD), colour=2),
            Line("n - 1", linear, colour=4, is_model=True),
        ],
    )


def _links_plot(report: Report) -> str:
    lines = []
    rows = _of_links(report)
    for colour, what in enumerate(links.WHAT):
        some = [row.figures for row in rows if row.what.endswith(f": {what}")]
        name = what.partition(" when ")[0]
        for figure, more in ((links.SECONDS, ""), (links.EXPECTED, ", expected")):
            points = tuple((f[links.LINK], f[figure]) for f in some)
            lines.append(Line(name + more, points, colour=colour, is_model=bool(more)))
    return chart("Seconds, by the time of a link", "milliseconds of a link, one way", lines)


# --- rows ---------------------------------------------------------------------------------------


def _of_members(report: Report, what: str) -> dict[int, Row]:
    """The rows about this, by the number of replicas. Raises KeyError: there is none."""
    found = {
        round(row.figures[members.REPLICAS]): row
        for row in report.rows
        if row.bench == members.NAME and row.what.startswith(f"{what}, ")
        if members.REPLICAS in row.figures
        and f"{what}, {row.figures[members.REPLICAS]:g} " in row.what
    }
    if not found:
        raise KeyError(what)
    return found


def _of_links(report: Report) -> list[Row]:
    found = [row for row in report.rows if row.bench == links.NAME and row.figures]
    if not found:
        raise KeyError(links.NAME)
    return found


def _ratio(row: Row) -> str:
    return "-" if row.ratio is None else number(row.ratio.median)


def _target(row: Row) -> str:
    return "-" if row.target is None else f"{row.target.bound:g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
