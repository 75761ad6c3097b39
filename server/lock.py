"""One server for one data folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType


class DataDirError(Exception):
    """The data folder cannot be used."""


class DataDirLocked(DataDirError):
    """Another process serves from this data folder."""

    def __init__(self, folder: Path, pid: str) -> None:
        self.pid = pid
        super().__init__(f"{folder} is in use by the server with process id {pid}; stop it or use another data folder.")


def default_data_dir() -> Path:
    """``$XDG_DATA_HOME/recallkv``."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "recallkv"


def make_data_dir(folder: Path) -> None:
    """Make the data folder, closed to other users, where it is missing. Raises ``DataDirError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DataDirError(f"{folder} cannot be a data folder: {error.strerror}") from error


class DataDirLock:
    """Holds ``folder/lock`` for as long as the process lives: the kernel lets go of it with the process, so that
    a file left behind by a crash is no obstacle. Raises ``DataDirLocked``, and ``DataDirError`` when the folder
    cannot be made or written to."""

    def __init__(self, folder: Path) -> None:
        make_data_dir(folder)
        try:
            self._stream = (folder / "lock").open("a+")
        except OSError as error:
            raise DataDirError(f"{folder} cannot be written to: {error.strerror}") from error
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.seek(0)
            pid = self._stream.read().strip() or "unknown"
            self._stream.close()
            raise DataDirLocked(folder, pid) from None
        self._stream.truncate(0)
        self._stream.write(str(os.getpid()))
        self._stream.flush()

    def release(self) -> None:
        """Let go. Calling it twice is harmless."""
        self._stream.close()

    def __enter__(self) -> DataDirLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
