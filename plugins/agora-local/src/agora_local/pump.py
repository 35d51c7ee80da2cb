"""Moving a workload's output from its pipes into capped files, never waiting for the disk's space.

The files `log.0`, `log.1`, ... hold frames of both streams in the order in which they came. Imported by the fork
server too, so it needs the standard library alone.
"""

from __future__ import annotations

import os
import struct
import time

#: time in ns, bytes dropped just before, stream, length of the data that follows.
FRAME = struct.Struct("<QQBI")
#: What a file begins with: bytes of output before it, kept or dropped.
HEAD = struct.Struct("<8sQ")
MAGIC = b"agoralg1"
#: A log is this many files at most, so that dropping the oldest loses about an eighth of it.
FILES = 8

_READ_BYTES = 65536
#: Reads in one turn before the shim looks at its other duties again.
_READS_A_TURN = 16


def file_name(number: int) -> str:
    """Return the name of the log file `number`."""
    return f"log.{number}"


class Pump:
    """Writes what it reads from two pipes; drops what the disk does not take.

    Parameters:
        directory: descriptor of the dispatch's directory.
        cap: bytes that all files together may take.
    """

    def __init__(self, directory: int, cap: int) -> None:
        self._directory = directory
        self._file_bytes = max(cap // FILES, HEAD.size + FRAME.size + _READ_BYTES)
        self._file = -1
        self._oldest = 0
        self._next = 0
        self._written = 0
        self._total = 0
        self._dropped = 0

    def turn(self, pipe: int, stream: int, reads: int = _READS_A_TURN) -> bool:
        """Move what is in a pipe; return False once all its writers are gone.

        Parameters:
            pipe: the reading end, not blocking.
            stream: 1 for stdout, 2 for stderr.
            reads: at most so many reads of 64 KiB.
        """
        for _ in range(reads):
            try:
                data = os.read(pipe, _READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            # A file ends where its share of the cap does, also in the middle of what was read.
            room = self._file_bytes - self._written - FRAME.size
            if self._file >= 0 and 0 < room < len(data):
                self._keep(data[:room], stream)
                data = data[room:]
            self._keep(data, stream)
        return True

    def close(self) -> None:
        """Close the file, with a last empty frame where the end of the output was dropped."""
        if self._dropped:
            self._keep(b"", 1)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _keep(self, data: bytes, stream: int) -> None:
        try:
            if self._file < 0 or self._written + FRAME.size + len(data) > self._file_bytes:
                self._begin_file()
            frame = FRAME.pack(time.time_ns(), self._dropped, stream, len(data))
            size = len(frame) + len(data)
            if os.writev(self._file, (frame, data)) != size:
                os.ftruncate(self._file, self._written)
                os.lseek(self._file, self._written, os.SEEK_SET)
                self._dropped += len(data)
            else:
                self._written += size
                self._dropped = 0
        except OSError:  # full disk, quota or file size limit: output is the one thing that may be lost
            self._dropped += len(data)
        self._total += len(data)

    def _begin_file(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        name = file_name(self._next)
        descriptor = os.open(name, flags, 0o600, dir_fd=self._directory)
        try:
            # The bytes that the next frame will call dropped are counted there.
            written = os.write(descriptor, HEAD.pack(MAGIC, self._total - self._dropped))
        except OSError:
            written = 0
        if written != HEAD.size:
            os.close(descriptor)
            os.unlink(name, dir_fd=self._directory)
            raise OSError("no space for a log file")
        if self._file >= 0:
            os.close(self._file)
        self._file = descriptor
        self._written = written
        self._next += 1
        if self._next - self._oldest > FILES:
            os.unlink(file_name(self._oldest), dir_fd=self._directory)
            self._oldest += 1
