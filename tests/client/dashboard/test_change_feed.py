"""change_feed: who is told of what, once, and that nothing is missed in between."""

import asyncio

import pytest

from client.dashboard.change_feed import Changes, TooManyFollowers

A, B = b"a" * 32, b"b" * 32


async def is_told(waiting: asyncio.Task[bytes | None]) -> bool:
    for _ in range(3):
        await asyncio.sleep(0)
    return waiting.done()


async def test_a_follower_of_all_is_told_which_one_changed() -> None:
    changes = Changes(1, 10)
    follower = changes.follow(None, None)
    changes.note_all(frozenset({A}))
    changes.note(A)
    assert await follower.wait() == A
    waiting = asyncio.create_task(follower.wait())
    assert not await is_told(waiting)
    for build in (A, B, A):
        changes.note(build)
    assert await waiting is None


async def test_two_builds_at_once_are_told_as_more_than_one() -> None:
    changes = Changes(1, 10)
    follower = changes.follow(None, None)
    for build in (A, B, b"c" * 32, b"d" * 32):
        changes.note(build)
    assert await follower.wait() is None


async def test_a_follower_of_one_hears_of_that_and_of_the_network() -> None:
    changes = Changes(1, 10)
    follower = changes.follow(A, None)
    waiting = asyncio.create_task(follower.wait())
    changes.note(B)
    assert not await is_told(waiting)
    changes.note(A)
    assert await waiting == A
    waiting = asyncio.create_task(follower.wait())
    changes.note(None)
    assert await is_told(waiting)


async def test_what_happened_before_the_first_listening_is_told() -> None:
    changes = Changes(7, 10)
    seen = changes.count
    changes.note(A)
    late = asyncio.create_task(changes.follow(None, seen).wait())
    assert await is_told(late)
    in_time = asyncio.create_task(changes.follow(None, changes.count).wait())
    assert not await is_told(in_time)
    in_time.cancel()


def test_followers_are_bounded_and_leave() -> None:
    changes = Changes(1, 1)
    follower = changes.follow(None, None)
    with pytest.raises(TooManyFollowers):
        changes.follow(None, None)
    changes.leave(follower)
    changes.follow(A, None)
