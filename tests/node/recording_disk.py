"""Records what SQLite and the redo log do to the disk, and lets the disk refuse.

The recorder is a VFS in front of SQLite's own (https://www.sqlite.org/vfs.html), made with
ctypes and registered as the default in the very library that Python's sqlite3 uses: the code
under test runs unchanged, with the SQLite that it has in production. (apsw would bring a SQLite
of its own, of another version, and would need an adapter.) Locks and shared memory go straight
to SQLite's VFS.
"""

import _sqlite3
import ctypes
import errno
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SQLITE_OK = 0
SQLITE_IOERR_READ = 10 | 1 << 8
SQLITE_IOERR_WRITE = 10 | 3 << 8
SQLITE_IOERR_FSYNC = 10 | 4 << 8
SQLITE_IOERR_TRUNCATE = 10 | 6 << 8
SQLITE_FULL = 13
SQLITE_OPEN_CREATE = 4


@dataclass(frozen=True)
class Created:
    """A file that was not there."""

    file: str


@dataclass(frozen=True)
class Removed:
    """A file is not there any more."""

    file: str


@dataclass(frozen=True)
class Written:
    """Bytes at an offset."""

    file: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncated:
    """The file has this size now."""

    file: str
    size: int


@dataclass(frozen=True)
class Synced:
    """What was written to the file before is on disk."""

    file: str


@dataclass(frozen=True)
class FolderSynced:
    """What was created and removed in the folder before is on disk."""


@dataclass(frozen=True)
class Acknowledged:
    """Not of the disk: what the code under test promises from here on, by number."""

    promise: int


Operation = Created | Removed | Written | Truncated | Synced | FolderSynced | Acknowledged


class Recorder:
    """The operations on the files of one folder, in order, and which of them shall fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operations: list[Operation] = []
        self.changes = 0
        self.failed = 0
        self._first = 0
        self._count = 0
        self._errno = errno.EIO
        self._reads_first = 0
        self._reads_count = 0

    def fail(self, first: int, count: int, error_number: int) -> None:
        """Fail `count` writes, truncations and syncs, after `first` more went well.

        error_number: errno.ENOSPC (writes only; syncs go well) or errno.EIO.
        """
        self._first = self.changes + first
        self._count = count
        self._errno = error_number

    def fail_reads(self, first: int, count: int) -> None:
        """Fail `count` reads of the database, after `first` more went well."""
        self._reads_first = first
        self._reads_count = count

    def is_read_refused(self) -> bool:
        """Called before each read."""
        if self._reads_count == 0:
            return False
        if self._reads_first > 0:
            self._reads_first -= 1
            return False
        self._reads_count -= 1
        self.failed += 1
        return True

    def name(self, path: bytes | str | None) -> str | None:
        """The file's name, where it lies in the folder that is recorded."""
        if path is None:
            return None
        where = Path(os.fsdecode(path))
        return where.name if where.parent == self.folder else None

    def note(self, operation: Operation) -> None:
        """One operation was done."""
        self.operations.append(operation)

    def refusal(self, is_sync: bool) -> int | None:
        """Called before each write, truncation and sync: the errno that it shall fail with."""
        change = self.changes
        self.changes += 1
        if self._count == 0 or change < self._first:
            return None
        if is_sync and self._errno == errno.ENOSPC:
            return None
        self._count -= 1
        self.failed += 1
        return self._errno


_Pointer = ctypes.c_void_p
_Int = ctypes.c_int
_Int64 = ctypes.c_int64


# The members of sqlite3_io_methods after iVersion, and of sqlite3_vfs after pAppData.
_METHODS = (
    "xClose xRead xWrite xTruncate xSync xFileSize xLock xUnlock xCheckReservedLock xFileControl"
    " xSectorSize xDeviceCharacteristics xShmMap xShmLock xShmBarrier xShmUnmap xFetch xUnfetch"
)
_CALLS = (
    "xOpen xDelete xAccess xFullPathname xDlOpen xDlError xDlSym xDlClose xRandomness xSleep"
    " xCurrentTime xGetLastError xCurrentTimeInt64 xSetSystemCall xGetSystemCall xNextSystemCall"
)


def _pointers(names: str) -> list[tuple[str, Any]]:
    return [(name, _Pointer) for name in names.split(" ")]


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, all versions."""

    _fields_ = [("iVersion", _Int), *_pointers(_METHODS)]


class _File(ctypes.Structure):
    """sqlite3_file: the rest is its VFS's own."""

    _fields_ = [("methods", ctypes.POINTER(_Methods))]


class _Vfs(ctypes.Structure):
    """sqlite3_vfs, version 3."""

    _fields_ = [
        ("iVersion", _Int),
        ("szOsFile", _Int),
        ("mxPathname", _Int),
        ("pNext", _Pointer),
        ("zName", ctypes.c_char_p),
        ("pAppData", _Pointer),
        *_pointers(_CALLS),
    ]


# The path is a pointer, because SQLite's VFS keeps it.
_Open = ctypes.CFUNCTYPE(_Int, _Pointer, _Pointer, _Pointer, _Int, ctypes.POINTER(_Int))
_Delete = ctypes.CFUNCTYPE(_Int, _Pointer, ctypes.c_char_p, _Int)
_Close = ctypes.CFUNCTYPE(_Int, _Pointer)
# Of reads, too.
_Write = ctypes.CFUNCTYPE(_Int, _Pointer, _Pointer, _Int, _Int64)
_Truncate = ctypes.CFUNCTYPE(_Int, _Pointer, _Int64)
_Sync = ctypes.CFUNCTYPE(_Int, _Pointer, _Int)
_OpenDirectory = ctypes.CFUNCTYPE(_Int, ctypes.c_char_p, ctypes.POINTER(_Int))
_SetSystemCall = ctypes.CFUNCTYPE(_Int, _Pointer, ctypes.c_char_p, _Pointer)
_GetSystemCall = ctypes.CFUNCTYPE(_Pointer, _Pointer, ctypes.c_char_p)


def _library() -> ctypes.CDLL:
    """The SQLite that Python's sqlite3 uses."""
    for path in (getattr(_sqlite3, "__file__", None), None):
        library = ctypes.CDLL(path)
        if hasattr(library, "sqlite3_vfs_register"):
            break
    else:
        pytest.skip("this Python's SQLite is linked in so that no VFS can be registered with it")
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    return library


class RecordingVfs:
    """The default VFS of this process, while it is registered.

    recorder: what notes the operations now; None: nobody.
    """

    def __init__(self) -> None:
        self.recorder: Recorder | None = None
        self._library = _library()
        self._real = self._library.sqlite3_vfs_find(None)
        real = self._real.contents
        self._real_open = _Open(real.xOpen)
        self._real_delete = _Delete(real.xDelete)
        # By the address of an open file: its name, and SQLite's own methods.
        self._names: dict[int, str | None] = {}
        self._own: dict[int, Any] = {}
        self._synced: set[int] = set()
        # By the address of SQLite's own methods: those, and ours in front of them.
        self._methods: dict[int, tuple[_Methods, _Methods]] = {}
        # What C holds pointers to must live as long as this.
        self._kept: list[Any] = []
        self._vfs = _Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._real, ctypes.sizeof(_Vfs))
        self._vfs.zName = b"recording"
        self._vfs.xOpen = self._pointer(_Open, self._open)
        self._vfs.xDelete = self._pointer(_Delete, self._delete)
        self._real_open_directory = _OpenDirectory(
            _GetSystemCall(real.xGetSystemCall)(self._address, b"openDirectory")
        )
        self._open_directory_pointer = self._pointer(_OpenDirectory, self._open_directory)

    @property
    def _address(self) -> int:
        return ctypes.addressof(self._real.contents)

    def register(self) -> None:
        """Every connection that is opened from now on is recorded."""
        set_call = _SetSystemCall(self._real.contents.xSetSystemCall)
        assert set_call(self._address, b"openDirectory", self._open_directory_pointer) == SQLITE_OK
        assert self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1) == SQLITE_OK

    def unregister(self) -> None:
        """Back to SQLite's own."""
        assert self._library.sqlite3_vfs_register(self._real, 1) == SQLITE_OK
        assert self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs)) == SQLITE_OK
        set_call = _SetSystemCall(self._real.contents.xSetSystemCall)
        assert set_call(self._address, b"openDirectory", None) == SQLITE_OK
        # A connection that is still open does without us from here on.
        for file, methods in self._own.items():
            _File.from_address(file).methods = methods
        self._own = {}

    def _pointer(self, kind: Any, function: Callable[..., int]) -> int | None:
        callback = kind(function)
        self._kept.append(callback)
        return ctypes.cast(callback, _Pointer).value

    # --- called by SQLite -----------------------------------------------------------------------

    def _open(self, _: int, path_address: int | None, file: int, flags: int, out: Any) -> int:
        path = ctypes.string_at(path_address) if path_address else None
        is_new = path is not None and not os.path.exists(path)
        code: int = self._real_open(self._address, path_address, file, flags, out)
        methods = _File.from_address(file).methods
        if code != SQLITE_OK or not methods:
            return code
        self._names[file] = None
        if self.recorder is not None:
            name = self._names[file] = self.recorder.name(path)
            if name is not None and is_new and flags & SQLITE_OPEN_CREATE:
                self.recorder.note(Created(name))
        self._own[file] = methods
        _File.from_address(file).methods = ctypes.pointer(self._ours(methods))
        return code

    def _ours(self, methods: Any) -> _Methods:
        address = ctypes.addressof(methods.contents)
        if address not in self._methods:
            real, ours = methods.contents, _Methods()
            ctypes.memmove(ctypes.byref(ours), methods, ctypes.sizeof(_Methods))
            close = _Close(real.xClose)
            read, write = _Write(real.xRead), _Write(real.xWrite)
            truncate, sync = _Truncate(real.xTruncate), _Sync(real.xSync)

            def on_close(file: int) -> int:
                self._names.pop(file, None)
                self._own.pop(file, None)
                self._synced.discard(file)
                return int(close(file))

            def on_read(file: int, data: int, size: int, offset: int) -> int:
                if self.recorder and self._names.get(file) and self.recorder.is_read_refused():
                    return SQLITE_IOERR_READ
                return int(read(file, data, size, offset))

            def on_write(file: int, data: int, size: int, offset: int) -> int:
                return self._write(write, file, data, size, offset)

            def on_truncate(file: int, size: int) -> int:
                return self._truncate(truncate, file, size)

            def on_sync(file: int, flags: int) -> int:
                return self._sync(sync, file, flags)

            ours.xClose = self._pointer(_Close, on_close)
            ours.xRead = self._pointer(_Write, on_read)
            ours.xWrite = self._pointer(_Write, on_write)
            ours.xTruncate = self._pointer(_Truncate, on_truncate)
            ours.xSync = self._pointer(_Sync, on_sync)
            self._methods[address] = (real, ours)
        return self._methods[address][1]

    def _write(self, real: Any, file: int, data: int, size: int, offset: int) -> int:
        recorder, name = self.recorder, self._names.get(file)
        if recorder is None or name is None:
            return int(real(file, data, size, offset))
        if error := recorder.refusal(is_sync=False):
            # A full disk takes what still fits.
            if half := size // 2:
                real(file, data, half, offset)
                recorder.note(Written(name, offset, ctypes.string_at(data, half)))
            return SQLITE_FULL if error == errno.ENOSPC else SQLITE_IOERR_WRITE
        code = int(real(file, data, size, offset))
        if code == SQLITE_OK:
            recorder.note(Written(name, offset, ctypes.string_at(data, size)))
        return code

    def _truncate(self, real: Any, file: int, size: int) -> int:
        recorder, name = self.recorder, self._names.get(file)
        if recorder is None or name is None:
            return int(real(file, size))
        if recorder.refusal(is_sync=False):
            return SQLITE_IOERR_TRUNCATE
        code = int(real(file, size))
        if code == SQLITE_OK:
            recorder.note(Truncated(name, size))
        return code

    def _sync(self, real: Any, file: int, flags: int) -> int:
        recorder, name = self.recorder, self._names.get(file)
        if recorder is None or name is None:
            return int(real(file, flags))
        if recorder.refusal(is_sync=True):
            return SQLITE_IOERR_FSYNC
        if file not in self._synced:
            # The first sync of a new file syncs its folder, too: that is SQLite's own doing.
            self._synced.add(file)
            code = int(real(file, flags))
            if code != SQLITE_OK:
                return code
        # No power fails here: waiting for the real disk would prove nothing.
        recorder.note(Synced(name))
        return SQLITE_OK

    def _delete(self, _: int, path: bytes, is_folder_synced: int) -> int:
        code: int = self._real_delete(self._address, path, is_folder_synced)
        if self.recorder is not None and code == SQLITE_OK:
            name = self.recorder.name(path)
            if name is not None:
                self.recorder.note(Removed(name))
                if is_folder_synced:
                    self.recorder.note(FolderSynced())
        return code

    def _open_directory(self, path: bytes, descriptor: Any) -> int:
        """SQLite syncs a folder by opening it first."""
        if self.recorder is not None and self.recorder.name(path) is not None:
            self.recorder.note(FolderSynced())
        return int(self._real_open_directory(path, descriptor))


class RecordingOs:
    """The `os` of node.storage.redo_log, in front of the real one."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._names: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        """As os.open."""
        is_new = not path.exists()
        descriptor = os.open(path, flags, mode)
        name = self._recorder.name(str(path))
        if name is not None:
            self._names[descriptor] = name
            if is_new:
                self._recorder.note(Created(name))
        return descriptor

    def close(self, descriptor: int) -> None:
        """As os.close."""
        self._names.pop(descriptor, None)
        os.close(descriptor)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        """As os.pwrite."""
        name = self._names.get(descriptor)
        if name is None:
            return os.pwrite(descriptor, data, offset)
        if error := self._recorder.refusal(is_sync=False):
            half = data[: len(data) // 2]
            os.pwrite(descriptor, half, offset)
            self._recorder.note(Written(name, offset, half))
            raise OSError(error, os.strerror(error))
        self._recorder.note(Written(name, offset, data))
        return os.pwrite(descriptor, data, offset)

    def fdatasync(self, descriptor: int) -> None:
        """As os.fdatasync."""
        name = self._names.get(descriptor)
        if name is not None:
            if error := self._recorder.refusal(is_sync=True):
                raise OSError(error, os.strerror(error))
            self._recorder.note(Synced(name))


@contextmanager
def recording(folder: Path) -> Iterator[Recorder]:
    """Record what is done to the files of this folder by connections opened inside."""
    vfs = _recording_vfs()
    recorder = Recorder(folder)
    vfs.recorder = recorder
    vfs.register()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("node.storage.redo_log.os", RecordingOs(recorder))
            yield recorder
    finally:
        vfs.recorder = None
        vfs.unregister()


@functools.cache
def _recording_vfs() -> RecordingVfs:
    """One for the process: a connection that is left open holds on to it."""
    return RecordingVfs()
