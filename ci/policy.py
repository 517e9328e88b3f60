"""What a consumer demands of a build before using it, beyond that its envelope holds.

The threshold is the consumer's, never the envelope's (DSSE v1.0.2, "threshold"); the subject is
matched by digest, and the name beside it only helps people (in-toto Statement v1).
"""

import msgspec

from ci.operations import Outcome
from ci.statement import StatementView


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """None: anything will do.

    repository: the URL as it is in requests. commit: the full id, in lower case.
    artifact_sha256: of a file that must be an agreed artifact (hex).
    """

    repository: str | None = None
    commit: str | None = None
    artifact_sha256: str | None = None


def mismatches(statement: StatementView, policy: Policy) -> list[str]:
    """Why this verified statement is about something else than the policy asks; one line each."""
    verdict = statement.verdict
    found = []
    if policy.repository is not None and verdict.repository != policy.repository:
        found.append(f"it is about the repository {verdict.repository}, not {policy.repository}")
    if policy.commit is not None and policy.commit not in proved_commits(statement):
        proved = ", ".join(proved_commits(statement)) or "no commit"
        found.append(f"it is about {proved}, not {policy.commit}")
    if policy.artifact_sha256 is not None:
        known = artifacts(statement).values()
        if policy.artifact_sha256 not in known:
            what = f"none of its {len(known)} artifacts" if known else "no artifact: it names none"
            found.append(f"SHA-256 {policy.artifact_sha256} is {what}")
    return found


def is_green(statement: StatementView) -> bool:
    """Did the replicas agree that the build passed?"""
    return statement.verdict.outcome is Outcome.PASSED


def proved_commits(statement: StatementView) -> tuple[str, ...]:
    """The commits that are subjects: none where the replicas agreed on none."""
    return tuple(s.digest["gitCommit"] for s in statement.subject if "gitCommit" in s.digest)


def artifacts(statement: StatementView) -> dict[str, str]:
    """Path -> SHA-256 (hex) of the agreed artifacts; the first subject is the request."""
    return {s.name: s.digest["sha256"] for s in statement.subject[1:] if "sha256" in s.digest}
