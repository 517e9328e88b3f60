"""One delivery of a forge is one build, whichever gateways ask for it, and however often."""

import hashlib

from ci.admission import ASKINGS_PER_CLIENT_MAX
from ci.application import (
    CLOSED_BUILDS_MAX,
    DELIVERIES_MAX,
    BuildApplication,
)
from ci.limits import Limits
from ci.operations import Delivery, Event, Outcome, SubmitBuild, encode_operation
from ci.statement import build_id_for, parse_statement, submitted_build_id
from pbft.ports import Applied, DeferredReply, Refusal
from tests.ci.builders import (
    ABSTAIN,
    FAILED,
    GATEWAY,
    OPERATOR,
    OTHER_GATEWAY,
    World,
    cluster_of,
    reason_of,
    submit_build,
)

OTHER_COMMIT = "d" * 40


def delivery(number: int = 0) -> Delivery:
    return Delivery("github", hashlib.sha256(b"delivery %d" % number).digest())


def open_delivery(world: World, number: int = 0, client: str = GATEWAY, identity: int = 0) -> bytes:
    return world.open(identity, client=client, delivery=delivery(number))


def test_two_gateways_with_one_delivery_ask_for_one_build_and_both_hear_of_it(
    world: World,
) -> None:
    build = open_delivery(world, client=GATEWAY, identity=1)
    assert open_delivery(world, client=OTHER_GATEWAY, identity=2) == build
    assert len(world.application.open_builds()) == 1
    world.cast(build, 0, FAILED)
    applied = world.cast(build, 1, FAILED)
    assert [told.client for told in applied.deferred] == [GATEWAY, OTHER_GATEWAY]
    assert len({told.result for told in applied.deferred}) == 1


def test_the_id_is_the_deliverys_and_not_the_askers(world: World) -> None:
    cluster_id = world.cluster.id
    asked = submit_build(1, delivery=delivery())
    again = submit_build(2, delivery=delivery())
    assert submitted_build_id(cluster_id, GATEWAY, asked) == submitted_build_id(
        cluster_id, OTHER_GATEWAY, again
    )
    plain = submit_build(1)
    assert submitted_build_id(cluster_id, GATEWAY, plain) == build_id_for(
        cluster_id, GATEWAY, plain.identity
    )


def test_every_field_that_replicas_act_on_makes_another_id(world: World) -> None:
    variants: list[SubmitBuild] = [
        submit_build(delivery=delivery()),
        submit_build(delivery=delivery(1)),
        submit_build(delivery=Delivery("gitlab", delivery().identity)),
        submit_build(delivery=delivery(), repository="https://example.org/other.git"),
        submit_build(delivery=delivery(), branch="other"),
        submit_build(delivery=delivery(), commit=OTHER_COMMIT),
        submit_build(delivery=delivery(), commit=None),
        submit_build(delivery=delivery(), event=Event.TAG, ref="refs/tags/master"),
        submit_build(delivery=delivery(), ref="refs/pull/7/head"),
        submit_build(delivery=delivery(), needs_approval=True),
    ]
    ids = {submitted_build_id(world.cluster.id, GATEWAY, asked) for asked in variants}
    ids |= {submitted_build_id(b"2" * 32, GATEWAY, variants[0])}
    assert len(ids) == len(variants) + 1


def test_a_delivery_cannot_be_given_to_another_build(world: World) -> None:
    """A gateway that lies about one field opens a build of its own, and spoils nothing."""
    honest = submit_build(1, delivery=delivery())
    lie = submit_build(2, delivery=delivery(), commit=OTHER_COMMIT)
    first = world.apply(OTHER_GATEWAY, lie)
    second = world.apply(GATEWAY, honest)
    assert (first.kind, second.kind) == ("opened", "opened")
    assert first.result != second.result
    assert world.application.open_builds()[second.result].commit == honest.commit


def test_a_redelivery_of_a_decided_build_is_answered_with_its_old_statement(world: World) -> None:
    build = open_delivery(world)
    world.cast(build, 0, FAILED)
    world.cast(build, 1, FAILED)
    statement = world.find_statement(build)
    closing = world.submit(5, client=OTHER_GATEWAY, delivery=delivery())
    assert [(told.client, told.result) for told in closing.deferred] == [(OTHER_GATEWAY, statement)]
    world.cast(build, 2, ABSTAIN)
    world.cast(build, 3, ABSTAIN)
    assert build not in world.application.open_builds()
    asked = encode_operation(submit_build(6, delivery=delivery()))
    request, digest = world.request(OTHER_GATEWAY, asked)
    assert world.application.apply(request, digest, 99) == Applied("opened", build, build)
    assert build not in world.application.open_builds()
    told = world.application.find_deferred(request, digest)
    assert isinstance(told, DeferredReply)
    assert (told.client, told.kind, told.result) == (OTHER_GATEWAY, "decided", statement)


def test_an_old_verdict_is_not_told_while_the_ledger_may_have_a_newer_one(world: World) -> None:
    """Given up, then asked for again by another gateway: the same id, another opening."""
    build = open_delivery(world)
    world.cancel(build, GATEWAY)
    asked = encode_operation(submit_build(6, delivery=delivery()))
    again = world.request(OTHER_GATEWAY, asked)
    told = world.application.find_deferred(*again)
    assert isinstance(told, DeferredReply)
    with_gap = BuildApplication(
        world.cluster, world.limits, world.find_statement, missing_entries=lambda: 1
    )
    assert isinstance(with_gap.find_deferred(*again), Refusal)


def test_the_last_deliveries_are_remembered_whatever_plain_posts_come(world: World) -> None:
    build = open_delivery(world)
    world.cancel(build, OPERATOR)
    for identity in range(1, CLOSED_BUILDS_MAX + 2):
        world.cancel(world.open(identity), GATEWAY)
    world.restart()
    assert open_delivery(world, identity=7) == build
    assert build not in world.application.open_builds()
    for number in range(1, DELIVERIES_MAX):
        world.cancel(open_delivery(world, number), OPERATOR)
    open_delivery(world, identity=8)
    assert build not in world.application.open_builds()
    world.cancel(open_delivery(world, DELIVERIES_MAX), OPERATOR)
    open_delivery(world, identity=9)
    assert build in world.application.open_builds()


def test_one_gateway_cannot_cancel_what_another_asked_for_too(world: World) -> None:
    build = open_delivery(world)
    open_delivery(world, client=OTHER_GATEWAY)
    assert world.cancel(build, OTHER_GATEWAY).deferred == ()
    (asker,) = world.application.open_builds()[build].askers
    assert asker.client == GATEWAY
    assert "did not ask" in reason_of(world.cancel(build, OTHER_GATEWAY))
    world.cancel(build, GATEWAY)
    assert build not in world.application.open_builds()


def test_a_gateway_that_asks_and_withdraws_keeps_no_other_from_asking(world: World) -> None:
    build = open_delivery(world, client=OTHER_GATEWAY)
    world.cancel(build, OTHER_GATEWAY)
    assert open_delivery(world, client=GATEWAY) == build
    assert build in world.application.open_builds()
    world.cancel(build, OPERATOR)
    assert open_delivery(world, client=GATEWAY) == build
    assert build not in world.application.open_builds(), "an operator's word is for everybody"


def test_a_delivery_is_not_withdrawn_in_the_batch_that_opened_it(world: World) -> None:
    """Asked for again in that batch, it would be two builds under one id and opening."""
    build = open_delivery(world, client=OTHER_GATEWAY)
    world.sequence -= 1  # one batch
    assert "cancel it again" in reason_of(world.cancel(build, OTHER_GATEWAY))
    assert build in world.application.open_builds()
    assert world.cancel(build, OTHER_GATEWAY).kind == "done"
    assert build not in world.application.open_builds()
    plain = world.open(1)
    world.sequence -= 1
    assert world.cancel(plain, GATEWAY).kind == "done", "a plain post is never opened again"


def test_a_gateway_that_asks_often_keeps_no_other_from_asking(world: World) -> None:
    for identity in range(ASKINGS_PER_CLIENT_MAX):
        build = open_delivery(world, client=OTHER_GATEWAY, identity=identity)
    refused = world.submit(99, client=OTHER_GATEWAY, delivery=delivery())
    assert "times already" in reason_of(refused)
    assert open_delivery(world, client=GATEWAY) == build
    askers = world.application.open_builds()[build].askers
    assert sum(asker.client == OTHER_GATEWAY for asker in askers) == ASKINGS_PER_CLIENT_MAX
    assert askers[-1].client == GATEWAY


def test_joining_a_build_needs_no_room() -> None:
    limits = Limits(open_builds_max=1, open_builds_per_client_max=1)
    world = World(cluster_of(4, limits), limits)
    build = open_delivery(world)
    assert "builds are open" in reason_of(world.submit(5, client=OTHER_GATEWAY))
    assert open_delivery(world, client=OTHER_GATEWAY) == build


def test_event_and_ref_are_in_the_build_and_in_the_statement(world: World) -> None:
    build = world.open(event=Event.PULL_REQUEST, ref="refs/pull/7/head", delivery=delivery())
    held = world.application.open_builds()[build]
    assert (held.event, held.ref, held.delivery) == (
        Event.PULL_REQUEST,
        "refs/pull/7/head",
        delivery(),
    )
    world.restart()
    assert world.application.open_builds()[build] == held
    world.cancel(build, OPERATOR)
    verdict = parse_statement(world.find_statement(build) or b"").verdict
    assert (verdict.event, verdict.ref) == (Event.PULL_REQUEST, "refs/pull/7/head")
    assert verdict.outcome is Outcome.CANCELLED


def test_a_plain_identity_cannot_ask_for_another_event_or_ref(world: World) -> None:
    world.open()
    others = ((Event.TAG, "refs/tags/master"), (Event.PULL_REQUEST, "refs/pull/7/head"))
    for event, ref in others:
        assert "another build" in reason_of(world.submit(event=event, ref=ref))
