"""What a dispute is about."""

from ci.operations import (
    Abstain,
    Ballot,
    BuildMetadata,
    BuildResult,
    ImageDigest,
    Outcome,
    ResultKey,
    Step,
)
from client.views.differences import FoundBy, differences_of

EVIDENCE = BuildMetadata("ef" * 32, 10, None, 1, 2, "test")


def finding(
    outcome: Outcome, exit_code: int | None, digest: str | tuple[ImageDigest, ...] | None
) -> BuildResult:
    return BuildResult(ResultKey(outcome, exit_code, "ab" * 20, "cd" * 32, digest), EVIDENCE)


def test_nothing_differs() -> None:
    same = finding(Outcome.PASSED, 0, None)
    ballots: dict[str, Ballot] = {"a": same, "b": same, "c": Abstain("no disk")}
    assert differences_of(ballots) == ()
    assert differences_of({}) == ()


def test_each_part_that_differs_with_who_found_what() -> None:
    ballots: dict[str, Ballot] = {
        "d": finding(Outcome.PASSED, 0, "sha256:1"),
        "a": finding(Outcome.PASSED, 0, "sha256:2"),
        "c": finding(Outcome.FAILED, 1, "sha256:1"),
        "b": finding(Outcome.IMAGE_UNAVAILABLE, None, None),
        "e": Abstain("no disk"),
    }
    found = {difference.part: difference.values for difference in differences_of(ballots)}
    assert found == {
        "outcome": (
            FoundBy("passed", ("a", "d")),
            FoundBy("image_unavailable", ("b",)),
            FoundBy("failed", ("c",)),
        ),
        "exit_code": (FoundBy("0", ("a", "d")), FoundBy(None, ("b",)), FoundBy("1", ("c",))),
        "image_digest": (
            FoundBy("sha256:1", ("c", "d")),
            FoundBy("sha256:2", ("a",)),
            FoundBy(None, ("b",)),
        ),
    }


def test_images_are_told_by_name_where_there_are_several() -> None:
    one, other = (
        finding(Outcome.PASSED, 0, (ImageDigest("a", digest), ImageDigest("b", None)))
        for digest in ("sha256:" + "1" * 64, "sha256:" + "2" * 64)
    )
    (difference,) = differences_of({"a": one, "b": one, "c": other})
    assert difference.part == "image_digest"
    assert difference.values == (
        FoundBy(f"a sha256:{'1' * 64}, b (made locally)", ("a", "b")),
        FoundBy(f"a sha256:{'2' * 64}, b (made locally)", ("c",)),
    )


def test_the_steps_that_were_to_run_are_told_by_name() -> None:
    one, other = (
        BuildResult(ResultKey(Outcome.PASSED, 0, "ab" * 20, "cd" * 32, None, steps=steps), EVIDENCE)
        for steps in ((Step("test", True), Step("release", False)), (Step("test", True),))
    )
    (difference,) = differences_of({"a": one, "b": one, "c": other})
    assert difference.values == (
        FoundBy("test, release (skipped)", ("a", "b")),
        FoundBy("test", ("c",)),
    )
