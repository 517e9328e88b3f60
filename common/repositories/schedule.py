"""A schedule of a repository: when a branch is built, whatever was pushed.

Times are in UTC, in whole minutes since 1970: a day has 24 hours all year, so no time comes twice
and none is left out.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from cronsim import CronSim, CronSimError

from common.config_error import ConfigError
from common.ref_names import check_branch_name

SCHEDULES_MAX = 32
CRON_CHARACTERS_MAX = 128
CRON_FIELDS = 5
MINUTE_SECONDS = 60
# The same as in ci.operations: it is part of the request.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z"


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of `schedules:`."""

    # what pipelines call it (`when: cron`)
    name: Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
    branch: str
    # minute, hour, day of the month, month, day of the week
    cron: Annotated[str, msgspec.Meta(max_length=CRON_CHARACTERS_MAX)]


def check_schedules(schedules: Sequence[Schedule], file: Path, key: str) -> None:
    """Refuse schedules that cannot be kept. Raises ConfigError. key: the repository's."""
    if len(schedules) > SCHEDULES_MAX:
        raise ConfigError.at(
            file,
            f"{key}.schedules",
            f"has {len(schedules)} items",
            f"at most {SCHEDULES_MAX} are allowed",
        )
    names: set[str] = set()
    for place, schedule in enumerate(schedules):
        where = f"{key}.schedules[{place}]"
        if schedule.name in names:
            raise ConfigError.at(
                file, f"{where}.name", f"{schedule.name} is there twice", "use another name"
            )
        names.add(schedule.name)
        if reason := check_branch_name(schedule.branch):
            raise ConfigError.at(
                file, f"{where}.branch", reason, "the short name of a branch is needed"
            )
        if reason := cron_problem(schedule.cron):
            raise ConfigError.at(
                file,
                f"{where}.cron",
                reason,
                'five fields are needed, as in "17 3 * * *" (03:17 UTC each day)',
            )


def cron_problem(cron: str) -> str | None:
    """Why this is no schedule; None: it is."""
    fields = len(cron.split())
    if fields != CRON_FIELDS:
        return f"{cron!r} has {fields} fields"
    try:
        CronSim(cron, _datetime(0))
    except CronSimError as error:
        # also where it would never be due, as on the 30th of February
        return f"{cron!r} is not understood ({error})"
    return None


def last_due(cron: str, minute: int) -> int | None:
    """The last time at which it was due, up to and with this minute; None: in 50 years never."""
    before = CronSim(cron, _datetime(minute + 1), reverse=True)
    found = next(before, None)
    return None if found is None else int(found.timestamp()) // MINUTE_SECONDS


def _datetime(minute: int) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(minute * MINUTE_SECONDS, datetime.UTC)
