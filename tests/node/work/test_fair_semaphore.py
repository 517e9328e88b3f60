"""node.work.fair_semaphore: slots go round between repositories, and none is ever lost."""

import asyncio

from node.work.fair_semaphore import FairSemaphore


class Queue:
    """Builds that each hold a slot until they are told to end."""

    def __init__(self, slots: int) -> None:
        self.slots = FairSemaphore(slots)
        self.order: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _build(self, repository: str, name: str) -> None:
        async with self.slots.hold(repository):
            self.order.append(name)
            await self.ends[name].wait()

    async def add(self, repository: str, *names: str) -> None:
        """These come, one after the other."""
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._build(repository, name))
        await settle()

    async def end(self, *names: str) -> None:
        """These are done."""
        for name in names:
            self.ends[name].set()
            await settle()

    async def cancel(self, name: str) -> None:
        """Nobody wants it any more."""
        self.tasks[name].cancel()
        await settle()


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_repository_is_first_come_first_served() -> None:
    queue = Queue(2)
    await queue.add("a", *"12345")
    assert queue.order == ["1", "2"]
    await queue.end(*"12345")
    assert queue.order == list("12345")


async def test_thirty_queued_builds_of_one_do_not_delay_the_one_of_another() -> None:
    queue = Queue(2)
    crowd = [f"a{number}" for number in range(30)]
    await queue.add("a", *crowd)
    await queue.add("b", "b0")
    await queue.end("a0")
    assert queue.order == ["a0", "a1", "b0"]
    await queue.end("a1", "b0", *crowd[2:])
    assert queue.order == ["a0", "a1", "b0", *crowd[2:]]


async def test_two_crowds_go_in_turn() -> None:
    queue = Queue(1)
    await queue.add("a", *(f"a{number}" for number in range(4)))
    await queue.add("b", *(f"b{number}" for number in range(3)))
    for name in ("a0", "b0", "a1", "b1", "a2", "b2", "a3"):
        assert queue.order[-1] == name
        await queue.end(name)


async def test_a_cancelled_build_gives_its_slot_back() -> None:
    queue = Queue(1)
    await queue.add("a", "running", "waiting", "next")
    await queue.cancel("waiting")
    await queue.cancel("running")
    assert queue.order == ["running", "next"]
    await queue.end("next")


async def test_a_slot_that_is_handed_over_in_the_moment_of_a_cancel_is_not_lost() -> None:
    queue = Queue(1)
    await queue.add("a", "first", "second", "third")
    # the slot goes to the second, which is cancelled before it could take it
    queue.ends["first"].set()
    await asyncio.sleep(0)
    queue.tasks["second"].cancel()
    await settle()
    assert queue.order == ["first", "third"]
    await queue.end("third")
    await queue.add("b", "last")
    assert queue.order[-1] == "last"
    await queue.end("last")
