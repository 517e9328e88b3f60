"""What a statement says of the test cases that replicas agree on, within its size. Pure.

The ids are strangers' texts, and JSON makes two bytes of each quote and backslash in them. So names
have a bound in the bytes of their JSON, all together: those of failed cases first, then of warned
and of unsettled ones, and those of passed cases only if all of them have room.
in-toto predicate test-result v0.1: names "must be determined separately between the producer and
consumer"; ours are ids of cases (`ci.case_results`).
"""

from collections.abc import Sequence

import msgspec

from ci.case_agreement import CaseAgreement

# of each list but that of the passed cases
NAMES_MAX = 128
# A report that a ballot names whole is as long, so its names have room if they need no escaping. A
# ballot with many artifacts names few cases (`ci.case_reports`), so that the longest statement is
# hardly longer than without (tests/ci/test_admission.py measures it).
NAMES_BYTES_MAX = 12 * 1024
# What `listed` says of the names: they are of all cases but the skipped ones; of all that are not
# known not to have failed or warned; of some of these.
LISTED_ALL = "all"
LISTED_NOT_PASSED = "not_passed"
LISTED_SOME = "some"


class StatedCases(msgspec.Struct, frozen=True, rename="camel"):
    """What replicas agree on about test cases, beside the names in the predicate.

    The fields are those of CaseAgreement and CaseCounts; a null is not agreed on.
    """

    report_sha256: str | None
    set_sha256: str | None
    total: int | None
    passed: int | None
    failed: int
    skipped: int | None
    warned: int
    unsettled: tuple[str, ...]
    # LISTED_ALL, LISTED_NOT_PASSED or LISTED_SOME
    listed: str
    # of how many ballots before the verdict
    reports: int
    sets_differ: bool
    # of the warned ones, at least
    quarantined: int = 0


class CaseNames(msgspec.Struct, frozen=True):
    """The names in a predicate, and all else about test cases."""

    passed: tuple[str, ...]
    warned: tuple[str, ...]
    failed: tuple[str, ...]
    stated: StatedCases


def stated_cases(agreement: CaseAgreement) -> CaseNames:
    """What a statement says of this agreement."""
    room = NAMES_BYTES_MAX
    lists = []
    for names in (agreement.failed, agreement.warned, agreement.unsettled):
        listed, room = _beginning(names, room)
        lists.append(listed)
    failed, warned, unsettled = lists
    is_whole = (failed, warned, unsettled) == (
        agreement.failed,
        agreement.warned,
        agreement.unsettled,
    )
    has_room = sum(map(_json_bytes, agreement.passed)) <= room
    if is_whole and has_room and agreement.are_all_named:
        listed_are = LISTED_ALL
    else:
        listed_are = LISTED_NOT_PASSED if is_whole and agreement.is_complete else LISTED_SOME
    counts = agreement.counts
    return CaseNames(
        passed=agreement.passed if has_room else (),
        warned=warned,
        failed=failed,
        stated=StatedCases(
            report_sha256=agreement.report_sha256,
            set_sha256=agreement.set_sha256,
            total=counts.total,
            passed=counts.passed,
            failed=counts.failed,
            skipped=counts.skipped,
            warned=counts.warned,
            unsettled=unsettled,
            listed=listed_are,
            reports=agreement.reports,
            sets_differ=agreement.sets_differ,
            quarantined=counts.quarantined,
        ),
    )


def _beginning(names: Sequence[str], room: int) -> tuple[tuple[str, ...], int]:
    """So many of these names as there is room for, and the room that is left."""
    listed = []
    for name in names[:NAMES_MAX]:
        room_after = room - _json_bytes(name)
        if room_after < 0:
            break
        listed.append(name)
        room = room_after
    return tuple(listed), room


def _json_bytes(name: str) -> int:
    """How many bytes a name has in a list, with its comma."""
    return len(msgspec.json.encode(name)) + 1
