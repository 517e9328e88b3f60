"""The process that reads lock files and fetches what they pin: `python -m` it, with an order on its
standard input. It prints one answer (`fetch_messages`).

It is a process of its own because strangers wrote what it reads. Its memory, its processor time and
its files have limits, and a crash of it is an infrastructure error of this replica.
"""

import asyncio
import json
import resource
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from common.dependencies.lock_file import Input, LockFile, Tool
from common.dependencies.reading import read_lock
from common.safe_text import log_text
from node.dependencies.fetch_messages import (
    Answer,
    Failed,
    FetchOrder,
    Flawed,
    Inputs,
    LockText,
    Stored,
    Unavailable,
    order_decoder,
)
from node.dependencies.fetcher import Fetcher, NotReached, NotServed
from node.dependencies.input_store import InputStore

PROCESSOR_SECONDS = 600
MEMORY_BYTES = 2 * 2**30
FILES_MAX = 256
TEXT_CHARACTERS_MAX = 900
# Where steps see the archives of npm.
NPM_FOLDER = "/pbft-ci-inputs/npm"


def answer_order(order: FetchOrder) -> Answer:
    """Read, fetch, and say what came of it."""
    locks = [(lock, read_lock(lock.tool, lock.data)) for lock in order.locks]
    flaws = tuple(flaw for lock, found in locks for flaw in _flaws(lock, found))
    if flaws:
        return Flawed(flaws)
    wanted: list[Input] = []
    python: dict[str, str | None] = {}
    for number, (lock, found) in enumerate(locks):
        for each in found.inputs:
            # unique over all lock files
            place = f"{number} {each.place} {each.part}"
            wanted.append(msgspec.structs.replace(each, place=place))
            python[place] = lock.python
    store = InputStore(Path(order.folder), 0, 0)
    try:
        stored = asyncio.run(Fetcher(order, store).fetch(wanted, python))
    except NotServed as error:
        return Unavailable(_text(error))
    except NotReached as error:
        return Failed(_text(error), error.is_permanent)
    except OSError as error:
        return Failed(_text(error))
    unique = tuple(sorted(set(stored)))
    problem = _second_name(unique)
    if problem is not None:
        return Flawed(((order.locks[0].file, problem),))
    rewritten = tuple(
        (lock.file, _rewritten(lock.data, unique)) for lock, _ in locks if lock.tool is Tool.NPM
    )
    return Inputs(unique, rewritten)


def _flaws(lock: LockText, found: LockFile) -> Iterable[tuple[str, str]]:
    for flaw in found.flaws:
        yield lock.file, flaw.text
    if found.are_more:
        yield lock.file, "and more like these"


def _second_name(stored: Iterable[Stored]) -> str | None:
    """What is wrong if two inputs would have one file; None: nothing is."""
    seen: dict[tuple[Tool, str], Stored] = {}
    for each in stored:
        other = seen.setdefault((each.tool, each.file), each)
        if other.digest != each.digest:
            return f"two inputs of {each.tool} have the file name {log_text(each.file)}"
    return None


def _rewritten(data: bytes, stored: Iterable[Stored]) -> bytes:
    """A lock file of npm whose packages are in the folder of inputs. `integrity` stays."""
    files = {(each.name, each.version): each.file for each in stored if each.tool is Tool.NPM}
    lock = json.loads(data)
    for key, entry in lock.get("packages", {}).items():
        name = entry.get("name") or key.rpartition("node_modules/")[2]
        file = files.get((name, entry.get("version")))
        if file is not None and "node_modules/" in key and not entry.get("link"):
            entry["resolved"] = f"file://{NPM_FOLDER}/{file}"
    # what npm itself reads in version 2 beside `packages` is for older releases of it
    lock.pop("dependencies", None)
    return json.dumps(lock, indent=2).encode()


def _text(error: Exception) -> str:
    return log_text(str(error), TEXT_CHARACTERS_MAX)


def restrict() -> None:
    """From now on this process has its limits."""
    for limit, most in (
        (resource.RLIMIT_CPU, PROCESSOR_SECONDS),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_NOFILE, FILES_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        _, given = resource.getrlimit(limit)
        held = most if given == resource.RLIM_INFINITY else min(most, given)
        resource.setrlimit(limit, (held, held))


if __name__ == "__main__":
    restrict()
    answer = answer_order(order_decoder.decode(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))
