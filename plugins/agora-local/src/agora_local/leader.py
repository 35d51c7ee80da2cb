"""The workload's first process as its shim sees it, made before anybody asks for it.

It is forked into its control group and waits there; with the request it takes on the caller's surroundings and
becomes the program. Needs the standard library alone.
"""

from __future__ import annotations

import os
import signal
import socket

from agora_local import processes, workload
from agora_local.cgroup import PREFIX, Cgroup


class Leader:
    """A process that waits to become the workload.

    Parameters:
        cgroup_parent: directory in which its control group is made, or None for none.

    Attributes:
        pid: its pid, the workload's later.
        start_time: clock ticks since boot; identifies it together with the pid.
        cgroup: its control group, if it has one.
        pipes: the reading ends of stdout and stderr, not blocking.
    """

    def __init__(self, cgroup_parent: str | None) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        out, out_write = os.pipe2(os.O_CLOEXEC)
        err, err_write = os.pipe2(os.O_CLOEXEC)
        shim = os.getpid()
        self.cgroup = None if cgroup_parent is None else Cgroup.make(f"{cgroup_parent}/{PREFIX}{shim}")
        self.pid = self._fork()
        if self.pid == 0:
            workload.become(theirs, shim, (out_write, err_write))
        self._descriptor = os.pidfd_open(self.pid)
        theirs.close()
        os.close(out_write)
        os.close(err_write)
        for pipe in (out, err):
            os.set_blocking(pipe, False)
        self.pipes = (out, err)
        found = processes.stat(self.pid)
        self.start_time = found.start_time if found is not None else 0

    def _fork(self) -> int:
        if self.cgroup is not None:
            try:
                return self.cgroup.fork()
            except OSError:
                self.cgroup.remove()
                self.cgroup = None
        return os.fork()

    def prepare(self, caller: int, home: int) -> None:
        """Hand it the request; return when nothing but the start itself is left to do.

        Raises:
            workload.StartError: what went wrong.
        """
        try:
            socket.send_fds(self._channel, [workload.PREPARE], [caller, home])
        except OSError:
            raise workload.StartError("process", 0) from None
        self._hear(workload.READY)

    def go(self) -> None:
        """Start the program; return once it has begun.

        Raises:
            workload.StartError: what went wrong.
        """
        self._channel.send(workload.GO)
        self._hear(b"")  # the start of the program closes the channel
        self._channel.close()

    def _hear(self, expected: bytes) -> None:
        said = self._channel.recv(64)
        if said != expected:
            raise workload.StartError.unpack(said) if said else workload.StartError("process", 0)

    def signal(self, number: int) -> None:
        """Send a signal to this process, and to no other one that got its pid."""
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            pass  # dead and waited for

    def discard(self) -> None:
        """End it before it became anything, and remove its control group."""
        self.signal(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        if self.cgroup is not None:
            self.cgroup.remove()
