"""node.work.beside: what runs beside a block never outlives it."""

import asyncio

import pytest

from node.work.beside import beside


class Work:
    """Ends when it is told to; slow to end when it is cancelled."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.ended: str | None = None

    async def run(self) -> None:
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.ended = "cancelled"
            raise
        self.ended = "done"


async def test_the_end_of_the_block_waits_for_it() -> None:
    work = Work()
    async with beside(work.run()):
        asyncio.get_running_loop().call_soon(work.go_on.set)
    assert work.ended == "done"


async def test_what_ends_the_block_ends_it_too_and_goes_on() -> None:
    work = Work()

    async def run() -> None:
        async with beside(work.run()):
            await asyncio.sleep(0)
            raise KeyError

    with pytest.raises(KeyError):
        await run()
    assert work.ended == "cancelled"


async def test_its_own_error_shows_at_the_end_of_the_block() -> None:
    steps: list[str] = []

    async def fail() -> None:
        raise KeyError

    async def run() -> None:
        async with beside(fail()):
            await asyncio.sleep(0)
            steps.append("the block's end")

    with pytest.raises(KeyError):
        await run()
    assert steps == ["the block's end"]


@pytest.mark.parametrize("is_in_the_block", [True, False])
async def test_a_cancel_ends_both(is_in_the_block: bool) -> None:
    work, began = Work(), asyncio.Event()

    async def run() -> None:
        async with beside(work.run()):
            await asyncio.sleep(0)
            began.set()
            if is_in_the_block:
                await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await began.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert work.ended == "cancelled"
