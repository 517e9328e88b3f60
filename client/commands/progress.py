"""What a build comes to so far, by replica and step, in lines for people. Pure."""

from typing import Any

from ci.executors import STAND_BY
from client.views.formats import short_repository
from common.safe_text import escape_controls


def progress_lines(build: dict[str, Any]) -> list[str]:
    """How far the build is, then a line for each replica. build: as the gateway's API gives it."""
    commit = (build["commit"] or "no commit yet")[:12]
    where = escape_controls(f"{short_repository(build['repository'])} {build['branch']}")
    detail = f" ({escape_controls(build['detail'])})" if build["detail"] else ""
    lines = [f"{build['id'][:12]}  {state_text(build)}  {commit}  {where}{detail}"]
    return lines + [f"  {row['replica']:10}{_doing(row)}" for row in build["replicas"]]


def _doing(row: dict[str, Any]) -> str:
    """What a replica does, in its own words (`building: STEP`), or what is known instead."""
    is_at_it = not row["has_ballot"] and not row["problem"]
    if is_at_it and row["state"] not in (None, "none", STAND_BY):
        return escape_controls(row["state"])
    return replica_text(row)


def state_text(build: dict[str, Any]) -> str:
    """The outcome with its exit code, or how far the build is."""
    verdict = build["verdict"]
    if not verdict:
        return str(build["status"])
    code = "" if verdict["exit_code"] is None else f" {verdict['exit_code']}"
    return f"{verdict['outcome']}{code}"


def replica_text(row: dict[str, Any]) -> str:
    """What a replica found, or what it does, with the step that it runs: one line."""
    if row["has_ballot"]:
        return escape_controls(row["state"])
    words = "no ballot" if row["state"] in (None, "none") else f"no ballot: {row['state']}"
    if row["state"] == STAND_BY:
        words = f"{STAND_BY}: it need not build"
    if row["problem"]:
        when = f" (last seen {row['seen']})" if row["seen"] else ""
        words += f"{when}; {row['problem']}"
    return escape_controls(words)
