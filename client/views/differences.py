"""In which part of what is compared build results differ: what a dispute is about. Pure."""

from collections.abc import Mapping

import msgspec

from ci.operations import Abstain, Ballot, ImageDigest, Step

# Fields of ci.operations.ResultKey, in words. Artifacts are compared file by file elsewhere.
PARTS = {
    "outcome": "outcome",
    "exit_code": "exit code",
    "commit": "commit",
    "pipeline_sha256": "pipeline file (SHA-256)",
    "image_digest": "images (the registries' digests)",
    "agreement": "agreement asked for",
    "steps": "steps, and which of them `when` lets run",
}

# what a step's choice (ci.operations.Step) adds to its name
_CHOICES = {True: "", False: " (skipped)", None: " (its failure is ignored)"}


class FoundBy(msgspec.Struct, frozen=True):
    """One of several values, as text (null: there is none), and the replicas that found it."""

    value: str | None
    replicas: tuple[str, ...]


class Difference(msgspec.Struct, frozen=True):
    """A part of what is compared that the replicas found different. name: what people call it."""

    part: str
    name: str
    values: tuple[FoundBy, ...]


def differences_of(ballots: Mapping[str, Ballot]) -> tuple[Difference, ...]:
    """Where the build results among these ballots, by replica, are not all the same.

    The value that most replicas found comes first.
    """
    differences = []
    for part, name in PARTS.items():
        found: dict[str | None, list[str]] = {}
        for replica, ballot in sorted(ballots.items()):
            if not isinstance(ballot, Abstain):
                value = _text(getattr(ballot.compared, part))
                found.setdefault(value, []).append(replica)
        if len(found) > 1:
            values = sorted(found.items(), key=lambda item: (-len(item[1]), item[1]))
            told = tuple(FoundBy(value, tuple(replicas)) for value, replicas in values)
            differences.append(Difference(part, name, told))
    return tuple(differences)


def _text(value: str | int | tuple[Step | ImageDigest, ...] | None) -> str | None:
    if value is None or value == ():
        return None
    if isinstance(value, tuple):
        return ", ".join(map(_entry_text, value))
    return str(value)


def _entry_text(entry: Step | ImageDigest) -> str:
    if isinstance(entry, ImageDigest):
        return f"{entry.name} {entry.digest or '(made locally)'}"
    return f"{entry.name}{_CHOICES[entry.choice]}"
