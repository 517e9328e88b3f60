"""Reads a container's output for the log, and finds the word that confirms it has the tree.

A container that unpacks its tree itself (UNPACK) writes BEGUN to its standard output and then
becomes the shell that runs the commands. Nothing of the build runs before that word, and all output
after it is the build's. A container whose output begins otherwise did not take the tree.
"""

import struct
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
# what a shell may complain of before it has the tree
EARLY_BYTES_MAX = 64 * 1024

# of a frame of an attached stream: which stream, three zeros, the length
_FRAME_HEADER = struct.Struct(">BxxxL")
_STANDARD_OUTPUT = 1


class TreeNotTaken(Exception):
    """The image's own programs do not unpack the tree, and nothing of the build has run."""


class Sink(Protocol):
    """What takes the output: a build's log, or a part of it."""

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises OSError."""


class ContainerOutput:
    """Takes an attached stream apart and writes what is in it to the log."""

    def __init__(self, log: Sink, *, is_tree_expected: bool) -> None:
        """is_tree_expected: whether it has to say BEGUN first."""
        self._log = log
        self._header = b""
        self._stream = 0
        self._expected_bytes = 0
        self._missing = BEGUN if is_tree_expected else b""
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
        if self.has_begun:
            self._log.write(bytes(self._early))
            self._early.clear()
            self._log.write(part[len(expected) :])
