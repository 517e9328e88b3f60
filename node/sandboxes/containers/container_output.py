"""Reads a container's output for the log, and finds the word that confirms it has the tree.

A container that unpacks its tree itself (UNPACK) writes BEGUN to its standard output and then
becomes the shell that runs the commands. Nothing of the build runs before that word, and all output
after it is the build's. A container whose output begins otherwise did not take the tree.

Archives that lie below the tree, such as entries of caches, come first on the same input. The
container says EARLY_TAKEN once it has them.
"""

import struct
from collections.abc import Callable, Iterable
from typing import Protocol

# The rest of its arguments are those of a shell that runs commands: `sh -e -c "$0" "$@"`. What the
# pipeline sets for tar is not meant for this one. The commands get neither the tree on their
# standard input nor a shell level more than in a container that begins with them.
UNPACK = """if (unset TAR_OPTIONS TAPE POSIXLY_CORRECT; exec tar -x -f -) >/dev/null 2>&1; then
  unset SHLVL
  echo 'pbft-ci has the tree'
  exec sh -e -c "$0" "$@" </dev/null
fi"""
BEGUN = b"pbft-ci has the tree\n"
# Goes before UNPACK. GNU's tar reads its input to the end, and BusyBox's leaves what is behind the
# archive. So dd hands on the blocks of one archive, and cat takes what tar leaves of them. Without
# a umask all permissions are the archive's; those of the tree are what a umask leaves anyway.
_UNPACK_EARLY = """if (unset TAR_OPTIONS TAPE POSIXLY_CORRECT; umask 0
  {takes}) >/dev/null 2>&1; then
  echo 'pbft-ci has what lies below the tree'
else
  exit 1
fi
"""
_TAKE = "dd bs={block} count={count} iflag=fullblock | (cd {folder} && tar -x -f - && exec cat)"
EARLY_TAKEN = b"pbft-ci has what lies below the tree\n"
# as much as a pipe holds
EARLY_BLOCK_BYTES = 64 * 1024
# what a shell may complain of before it has the tree
EARLY_BYTES_MAX = 64 * 1024

# of a frame of an attached stream: which stream, three zeros, the length
_FRAME_HEADER = struct.Struct(">BxxxL")
_STANDARD_OUTPUT = 1


class TreeNotTaken(Exception):
    """The image's own programs do not unpack the tree, and nothing of the build has run."""


def unpack_script(early: Iterable[tuple[str, int]] = ()) -> str:
    """UNPACK for a container that gets other archives before the tree.

    early: the folder (without characters that a shell knows) and the bytes of each, in their order.
    On the input each is followed by zeros up to a whole number of EARLY_BLOCK_BYTES.
    """
    takes = [
        _TAKE.format(block=EARLY_BLOCK_BYTES, count=-(-length // EARLY_BLOCK_BYTES), folder=folder)
        for folder, length in early
    ]
    return (_UNPACK_EARLY.format(takes=" &&\n  ".join(takes)) if takes else "") + UNPACK


class Sink(Protocol):
    """What takes the output: a build's log, or a part of it."""

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises OSError."""


class ContainerOutput:
    """Takes an attached stream apart and writes what is in it to the log."""

    def __init__(
        self,
        log: Sink,
        *,
        is_tree_expected: bool,
        on_early_taken: Callable[[], None] | None = None,
    ) -> None:
        """is_tree_expected: whether it has to say BEGUN first.

        on_early_taken: called when it says EARLY_TAKEN, which it has to say before that; None: it
        gets no other archives.
        """
        self._log = log
        self._on_early_taken = on_early_taken
        self._header = b""
        self._stream = 0
        self._expected_bytes = 0
        self._missing = BEGUN if is_tree_expected else b""
        if on_early_taken is not None:
            self._missing = EARLY_TAKEN + self._missing
        # standard error, which may overtake BEGUN
        self._early = bytearray()

    @property
    def has_begun(self) -> bool:
        """Whether what comes is the build's."""
        return not self._missing

    def take(self, data: bytes) -> None:
        """The next bytes of the stream, cut anywhere. Raises TreeNotTaken, OSError."""
        view = memoryview(data)
        while view:
            if self._expected_bytes == 0:
                missing = _FRAME_HEADER.size - len(self._header)
                self._header += bytes(view[:missing])
                view = view[missing:]
                if len(self._header) == _FRAME_HEADER.size:
                    self._stream, self._expected_bytes = _FRAME_HEADER.unpack(self._header)
                    self._header = b""
                continue
            part = view[: self._expected_bytes]
            self._take_part(bytes(part))
            self._expected_bytes -= len(part)
            view = view[len(part) :]

    def _take_part(self, part: bytes) -> None:
        if self.has_begun:
            self._log.write(part)
        elif self._stream != _STANDARD_OUTPUT:
            self._early += part
            if len(self._early) > EARLY_BYTES_MAX:
                raise TreeNotTaken("the shell complains before it has the tree")
        else:
            self._begin(part)

    def _begin(self, part: bytes) -> None:
        expected = self._missing[: len(part)]
        if part[: len(expected)] != expected:
            raise TreeNotTaken("the shell says something before it has the tree")
        self._missing = self._missing[len(expected) :]
        if self._on_early_taken is not None and len(self._missing) <= len(BEGUN):
            self._on_early_taken()
            self._on_early_taken = None
        if self.has_begun:
            self._log.write(bytes(self._early))
            self._early.clear()
            self._log.write(part[len(expected) :])
