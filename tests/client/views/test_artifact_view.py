"""Whether a ballot is what a statement's value stands for, as a whole."""

from ci.operations import ImageDigest
from ci.statement import parse_statement
from client.views.artifact_view import is_found_value
from tests.ci.builders import World, finding


def test_a_ballot_that_differs_in_one_of_several_images_is_another_value() -> None:
    world = World()
    first, other = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    images = (ImageDigest("a", first), ImageDigest("b", None))
    found = finding(image_digest=images)
    build = world.open()
    for replica in range(3):
        world.cast(build, replica, found)
    (entry,) = world.verdict_entries()
    (value,) = parse_statement(bytes(entry.statement)).verdict.found
    assert is_found_value(found.compared, value)
    for image_digest in (None, first, (ImageDigest("a", other), images[1])):
        assert not is_found_value(finding(image_digest=image_digest).compared, value)
