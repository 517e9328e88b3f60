"""Agreed artifacts, and where replicas differ, file by file: plain values for people. Pure."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ci.artifact_rules import artifact_differences, artifacts_sha256
from ci.ledger import RecordedArtifact, recorded_images
from ci.operations import Artifact, Ballot, BuildResult, Outcome, ResultKey
from ci.statement import FoundValue, VerdictFields, steps_sha256


class ArtifactView(msgspec.Struct, frozen=True):
    """A file that the agreeing replicas all made; `length` in bytes."""

    path: str
    sha256: str
    length: int


class FoundFile(msgspec.Struct, frozen=True):
    """What these replicas have at a path: null where they have nothing there."""

    replicas: tuple[str, ...]
    sha256: str | None
    length: int | None


class FileDifference(msgspec.Struct, frozen=True):
    """A path at which replicas that found `passed` differ, most of them first."""

    path: str
    found: tuple[FoundFile, ...]


def artifact_views(artifacts: Iterable[RecordedArtifact]) -> tuple[ArtifactView, ...]:
    """What the replicas agreed on."""
    return tuple(ArtifactView(a.path, a.sha256, a.length) for a in artifacts)


def file_differences(
    verdict: VerdictFields | None, cast: Mapping[str, Ballot]
) -> tuple[FileDifference, ...]:
    """Where the artifacts of the replicas differ: of all ballots that are here, and those that
    the statement lists."""
    made: dict[str, Sequence[Artifact]] = {}
    for found in verdict.found if verdict is not None else ():
        is_whole = found.artifacts or found.artifacts_sha256 is None
        if found.outcome is Outcome.PASSED and is_whole:
            listed = tuple(Artifact(a.path, a.sha256, a.length) for a in found.artifacts)
            made.update(dict.fromkeys(found.replicas, listed))
    for replica, ballot in cast.items():
        if isinstance(ballot, BuildResult) and ballot.compared.outcome is Outcome.PASSED:
            made[replica] = ballot.compared.artifacts
    names = sorted(made)
    return tuple(
        FileDifference(difference.path, _grouped(names, difference.found))
        for difference in artifact_differences([made[name] for name in names])
    )


def is_found_value(compared: ResultKey, found: FoundValue) -> bool:
    """Is this what the statement's value stands for, as a whole?"""
    fields = msgspec.structs.asdict(compared)
    # of lists the statement has the digests
    for of_list in ("artifacts", "steps", "image_digest"):
        del fields[of_list]
    return (
        compared.only_image_digest == found.image_digest
        and recorded_images(compared) == (found.images or ())
        and artifacts_sha256(compared.artifacts) == found.artifacts_sha256
        and steps_sha256(compared) == found.steps_sha256
        and all(getattr(found, field) == value for field, value in fields.items())
    )


def _grouped(names: Sequence[str], found: Sequence[Artifact | None]) -> tuple[FoundFile, ...]:
    groups: dict[Artifact | None, list[str]] = {}
    for name, artifact in zip(names, found, strict=True):
        groups.setdefault(artifact, []).append(name)
    by_size = sorted(groups.items(), key=lambda group: (-len(group[1]), group[1]))
    return tuple(
        FoundFile(
            tuple(replicas),
            None if artifact is None else artifact.sha256,
            None if artifact is None else artifact.length,
        )
        for artifact, replicas in by_size
    )
