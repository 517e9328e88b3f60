"""The operators' limits for builds, equal on all replicas: those of the genesis, until changed.

`ci.limit_changes` changes them by an ordered operation.
"""

import functools
from typing import Annotated, Literal

import msgspec

ALL = "all"
CELLS_MAX = 16
# Of encoded limits; those of today have half of that.
LIMITS_BYTES_MAX = 1024


class InvalidLimits(ValueError):
    """Bytes that are not the one encoding of limits; the text says why."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules of the replicated application. All sizes in bytes, all times in seconds."""

    # the longest a pipeline may ask for, and the default if it does not ask
    build_seconds_max: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 600
    # how long after its own ballot a replica waits before it reports that a build has no verdict
    deadline_seconds: Annotated[int, msgspec.Meta(ge=1, le=86400)] = 900
    # memory_bytes, cpus and pids_max: of the processes of one build, and the most that a pipeline
    # may ask for
    memory_bytes: Annotated[int, msgspec.Meta(ge=16 * 2**20)] = 512 * 2**20
    cpus: Annotated[float, msgspec.Meta(gt=0, le=1024)] = 1.0
    pids_max: Annotated[int, msgspec.Meta(ge=8, le=100_000)] = 512
    # The file systems of one build are all in memory; only what is written costs memory. This one
    # holds the commit's files and what is made of them
    workspace_bytes: Annotated[int, msgspec.Meta(ge=2**20)] = 2 * 2**30
    # of HOME
    home_bytes: Annotated[int, msgspec.Meta(ge=2**20)] = 2**30
    # of /tmp
    temporary_bytes: Annotated[int, msgspec.Meta(ge=2**20)] = 512 * 2**20
    # what is kept of a build's output, head and tail
    log_bytes_max: Annotated[int, msgspec.Meta(ge=4096, le=2**30)] = 4 * 2**20
    # undecided builds at once
    open_builds_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 256
    # undecided builds of one client
    open_builds_per_client_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    # decided builds that still take late ballots
    closing_builds_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    # builds of one client that wait for an operator's approval; they do not count as undecided ones
    # above
    waiting_builds_per_client_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 64
    # a ballot carries the paths and digests of all of them in one request
    artifacts_max: Annotated[int, msgspec.Meta(ge=0, le=64)] = 64
    # of all files that a pipeline names
    artifact_bytes_max: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 64 * 2**20
    # cells of a matrix, which share the time of a build
    cells_max: Annotated[int, msgspec.Meta(ge=1, le=64)] = CELLS_MAX
    # whether a pipeline may ask to be `passed` by f + 1 replicas
    weak_agreement_allowed: bool = False
    # `all`: every replica builds everything; `minimal`: as many as a verdict needs, and the others
    # when those do not agree (ci.executors)
    executors: Literal["all", "minimal"] = "all"


def encode_limits(limits: Limits) -> bytes:
    """The bytes that go into `Genesis.application`.

    `executors` is left out where it is `all`, and `cells_max` where it is CELLS_MAX: a genesis from
    before there was a choice means that, and its digest, the cluster's id, stays what it was.
    """
    fields = shown_limits(limits)
    if limits.executors == ALL:
        del fields["executors"]
    return msgspec.msgpack.encode(fields)


def shown_limits(limits: Limits) -> dict[str, bool | int | float | str]:
    """All of them by name, as the ledger has them and nodes show them.

    Without `cells_max` where it is CELLS_MAX: versions that do not know it write none.
    """
    fields = msgspec.structs.asdict(limits)
    if limits.cells_max == CELLS_MAX:
        del fields["cells_max"]
    return fields


def decode_limits(data: bytes) -> Limits:
    """The inverse of encode_limits. Raises msgspec.ValidationError."""
    return msgspec.msgpack.decode(data, type=Limits)


@functools.lru_cache(maxsize=64)
def read_limits(data: bytes) -> Limits:
    """The limits that somebody sent, or a state holds. Raises InvalidLimits.

    Taken only as `encode_limits` writes them. So no limit is left to a version's default, and
    limits have one digest.
    """
    if len(data) > LIMITS_BYTES_MAX:
        raise InvalidLimits(f"{len(data)} bytes; at most {LIMITS_BYTES_MAX}")
    try:
        limits = decode_limits(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidLimits(str(error)) from error
    if encode_limits(limits) != data:
        raise InvalidLimits("not the one encoding of these limits")
    return limits
