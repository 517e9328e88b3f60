"""A program that passes TCP on, each byte some time later: a long link, where the kernel has none.

    python -m bench.delaying_relay --milliseconds 50 10000:10010 10001:10011

LISTEN:TO are ports of this machine. What comes in order goes out in order, and the bandwidth stays
what it is. Both ends shake hands with the relay, so a connection is made sooner than on such a
link, by one round trip.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from functools import partial

import uvloop

HOST = "127.0.0.1"
MILLISECONDS_MAX = 10_000
CHUNK_BYTES = 64 * 1024
# More than that on its way in one direction, and the sender has to wait.
CHUNKS_MAX = 1024


async def serve(delay_seconds: float, ports: dict[int, int]) -> None:
    """Pass on what comes to these ports, for ever. ports: from where to where. Raises OSError."""

    async def relay(to: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(HOST, to, limit=CHUNK_BYTES)
            await asyncio.gather(
                _pass_on(reader, back, delay_seconds), _pass_on(there, writer, delay_seconds)
            )
            back.close()
        writer.close()

    for port, to in ports.items():
        await asyncio.start_server(partial(relay, to), HOST, port, limit=CHUNK_BYTES)
    await asyncio.get_running_loop().create_future()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_seconds: float
) -> None:
    """Until the end of what comes, which is passed on as well."""
    clock = asyncio.get_running_loop().time
    on_its_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)

    async def read() -> None:
        chunk = b"-"
        while chunk:
            try:
                chunk = await reader.read(CHUNK_BYTES)
            except OSError:
                chunk = b""
            await on_its_way.put((clock() + delay_seconds, chunk))

    reading = asyncio.create_task(read())
    try:
        while True:
            due, chunk = await on_its_way.get()
            await asyncio.sleep(due - clock())
            if not chunk:
                if not writer.is_closing():
                    writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()
    except OSError:
        # that end is gone, and the other direction ends by this
        writer.close()
    finally:
        reading.cancel()


def main(arguments: Sequence[str]) -> None:
    """Pass on until it is killed."""
    parser = argparse.ArgumentParser(description="Pass TCP on, each byte some time later.")
    parser.add_argument("ports", nargs="+", metavar="LISTEN:TO")
    parser.add_argument("--milliseconds", type=float, required=True, help="in each direction")
    options = parser.parse_args(arguments)
    if not 0 <= options.milliseconds <= MILLISECONDS_MAX:
        parser.error(f"--milliseconds: 0 to {MILLISECONDS_MAX} are allowed")
    ports = {}
    for text in options.ports:
        listen, _, to = text.partition(":")
        if not (listen.isdecimal() and to.isdecimal()):
            parser.error(f"{text}: LISTEN:TO is needed, as 10000:10010")
        ports[int(listen)] = int(to)
    uvloop.run(serve(options.milliseconds / 1000, ports))


if __name__ == "__main__":
    main(sys.argv[1:])
