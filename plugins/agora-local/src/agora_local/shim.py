"""The shim: one small process per workload that starts it, watches over it, ends it and writes down how it ended.

It is forked from the fork server, outlives the control plane, and needs the standard library alone.
"""

from __future__ import annotations

import array
import marshal
import os
import select
import signal
import socket
import time
from contextlib import suppress

from agora_local import processes, tree, workload
from agora_local.journal import Journal
from agora_local.leader import Leader
from agora_local.pump import Pump
from agora_local.request import Descriptors, Request, receive

#: The contract arms a backend's own deadline at least so many seconds after the dispatch's.
BACKSTOP_MARGIN = 60.0
#: Pauses between two rounds of killing a tree: at first at once, later for processes that the kernel holds.
_FIRST_PAUSE = 0.001
_LAST_PAUSE = 0.2
#: Rounds after which not only the own children are killed but everything below them in one go.
_DEEP_AFTER = 2
#: Longer than any request of a dispatch, and of a stop.
REQUEST_BYTES = 16384
_WORDS_BYTES = 2048
_NEVER = float("inf")


class Shim:
    """Guards one workload from its start until its whole tree is gone."""

    def __init__(self, leader: Leader, wake: int, request: Request, descriptors: Descriptors) -> None:
        self._leader = leader
        self._wake = wake
        self._request = request
        self._descriptors = descriptors
        self._journal = Journal(descriptors.journal, request.offset, request.reserve)
        self._pump = Pump(descriptors.directory, request.log_cap)
        self._control_path = f"/proc/self/fd/{descriptors.live}/{request.id}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self._pipes = dict(zip(leader.pipes, (1, 2), strict=True))
        self._callers: dict[int, socket.socket] = {}
        self._waiting: list[socket.socket] = []
        self._poll = select.poll()
        for descriptor in (wake, self._listener.fileno(), *self._pipes):
            self._poll.register(descriptor, select.POLLIN)
        self._backstop = time.monotonic() + request.timeout + BACKSTOP_MARGIN
        self._stop_by = _NEVER
        self._stop_grace = 0
        self._asked = False
        self._ended_by: str | None = None
        self._told_to_end = False
        self._killed_leader = False
        self._rounds = 0
        self._status = 0
        self._leader_gone = False
        self._empty = False

    # --- start -----------------------------------------------------------------------------------------------

    def start(self, own_start_time: int) -> bool:
        """Start the workload and answer the dispatching process; return whether it runs."""
        try:
            self._begin(own_start_time)
        except (workload.StartError, OSError) as error:
            failed = (error.stage, error.number) if isinstance(error, workload.StartError) else ("shim", error.errno)
            self._leader.discard()
            with suppress(OSError):
                self._journal.write("refused", stage=failed[0], errno=failed[1])
            with suppress(OSError):
                os.unlink(self._control_path)
            self._answer_caller(failed)
            return False
        with suppress(OSError):  # removed by hand already
            os.utime(self._control_path)  # tells those who watch the directory
        self._answer_caller(None)
        return True

    def _begin(self, own_start_time: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, self._told)
        with suppress(FileNotFoundError):
            os.unlink(self._control_path)  # of an attempt that died before its start; the journal's lock is ours
        self._listener.bind(self._control_path)
        self._listener.listen(64)
        leader = self._leader
        leader.prepare(self._descriptors.caller, self._descriptors.home)
        # Written before the program begins: no record, no workload.
        self._journal.write(
            "start",
            pid=leader.pid,
            start_time=leader.start_time,
            shim=os.getpid(),
            shim_start_time=own_start_time,
            namespace=processes.pid_namespace(),
            cgroup=None if leader.cgroup is None else leader.cgroup.path,
        )
        leader.go()
        with suppress(OSError):  # it runs, whatever the disk says
            self._journal.write("running")

    def _answer_caller(self, failed: tuple[str, int | None] | None) -> None:
        caller = socket.socket(fileno=self._descriptors.caller)
        with suppress(OSError):  # the dispatching process may be gone; whoever comes next finds the journal
            caller.send(marshal.dumps(failed))
        caller.close()
        os.close(self._descriptors.home)

    def _told(self, *_: object) -> None:
        self._told_to_end = True

    # --- watch over it ---------------------------------------------------------------------------------------

    def guard(self) -> None:
        """Serve until the tree is empty and the end is written down."""
        while True:
            self._reap()
            if self._told_to_end and self._stop_by == _NEVER:
                self._begin_stop(self._request.grace, "external")
            pause = self._escalate()
            if self._empty:
                break
            for descriptor, _ in self._poll.poll(None if pause is None else max(pause * 1000, 1)):
                if descriptor in self._pipes:
                    self._move_output(descriptor)
                elif descriptor == self._wake:
                    os.read(descriptor, 4096)
                elif descriptor == self._listener.fileno():
                    self._accept()
                else:
                    self._answer(self._callers.pop(descriptor))
        self._finish()

    def _reap(self) -> None:
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._leader.pid:
                    self._status = status
                    self._leader_gone = True
        except ChildProcessError:
            # No child, dead or alive: with this process as the subreaper, nothing of the tree is left.
            self._empty = True

    def _escalate(self) -> float | None:
        """Kill what is due; return seconds until there is something to do again."""
        now = time.monotonic()
        if not self._leader_gone:
            if self._stop_by == _NEVER and now >= self._backstop:
                self._begin_stop(self._request.grace, "deadline")
            if now < self._stop_by:
                return (self._backstop if self._stop_by == _NEVER else self._stop_by) - now
            if not self._killed_leader:
                self._killed_leader = True
                self._leader.signal(signal.SIGKILL)
        elif self._empty:
            return 0
        if self._leader.cgroup is not None:
            self._leader.cgroup.kill()
        tree.kill_children()
        self._rounds += 1
        if self._rounds > _DEEP_AFTER:
            tree.signal_descendants(signal.SIGKILL)
        return min(_FIRST_PAUSE * (1 << min(self._rounds, 10)), _LAST_PAUSE)

    def _begin_stop(self, grace: int, by: str, cause: bytes | None = None) -> None:
        self._stop_by = time.monotonic() + grace
        self._stop_grace = grace
        if by == "request":
            self._asked = True
        else:
            self._ended_by = by
        with suppress(OSError):  # a full disk never keeps a stop from being carried out
            self._journal.write("stop", grace=grace, by=by, cause=cause)
        self._leader.signal(signal.SIGTERM)
        # A stopped process would see the signal only once it is continued.
        tree.signal_descendants(signal.SIGCONT, only_stopped=True)

    # --- control ---------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        self._callers[connection.fileno()] = connection
        self._poll.register(connection.fileno(), select.POLLIN)

    def _answer(self, connection: socket.socket) -> None:
        self._poll.unregister(connection.fileno())
        try:
            words = connection.recv(_WORDS_BYTES).split(maxsplit=2)
        except OSError:
            words = []
        self._reap()
        if self._leader_gone and words:
            self._waiting.append(connection)  # answered once the end is written down
            return
        match words:
            case [b"stop", grace, cause] if grace.isdigit():
                reply = self._stop(int(grace), cause)
            case [b"kill"]:
                reply = self._kill()
            case _:
                reply = b"unknown"
        _say(connection, reply)

    def _stop(self, grace: int, cause: bytes) -> bytes:
        if self._stop_by != _NEVER:
            self._asked = True
            return b"already_stopping %d" % self._stop_grace
        self._begin_stop(grace, "request", cause)
        return b"signalled %d" % grace

    def _kill(self) -> bytes:
        self._asked = True
        self._stop_by = time.monotonic()
        with suppress(OSError):
            self._journal.write("kill")
        self._escalate()
        return b"signalled 0"

    # --- output and end --------------------------------------------------------------------------------------

    def _move_output(self, pipe: int) -> None:
        if not self._pump.turn(pipe, self._pipes[pipe]):
            self._poll.unregister(pipe)
            del self._pipes[pipe]
            os.close(pipe)

    def _finish(self) -> None:
        for pipe, stream in self._pipes.items():
            self._pump.turn(pipe, stream)
        self._pump.close()
        if self._leader.cgroup is not None:
            self._leader.cgroup.remove()
        number = os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else None
        while True:
            try:
                self._journal.write(
                    "exit",
                    durable=True,
                    exit_code=os.waitstatus_to_exitcode(self._status) if number is None else 128 + number,
                    signal=number,
                    forced=self._killed_leader and number == signal.SIGKILL,
                    stop_reached=self._asked,
                    ended_by=self._ended_by,
                )
                break
            except OSError:
                time.sleep(1)  # the one thing that must not be lost; the lock says that it is still to come
        try:
            os.unlink(self._control_path)
        except OSError:
            pass
        for connection in self._waiting:
            _say(connection, b"exited")


def _say(connection: socket.socket, reply: bytes) -> None:
    try:
        connection.send(reply)
    except OSError:
        pass  # the caller has given up
    connection.close()


def main(requests: socket.socket, taken: int, cgroup_parent: str | None) -> None:
    """Stand by for a request, then be the shim of one workload to its end.

    Parameters:
        requests: where this and other standbys wait; closed by the other side when no more will come.
        taken: where to say that a request was taken and a new standby is needed.
        cgroup_parent: directory in which control groups are made, or None for none.
    """
    os.setsid()
    processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
    processes.prctl(processes.PR_SET_NAME, b"agora-shim")
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    leader = Leader(cgroup_parent)
    own = processes.stat(os.getpid())
    data, descriptors = receive(requests, REQUEST_BYTES, Descriptors.COUNT)
    requests.close()
    if not data or own is None:
        leader.discard()
        return
    shim = Shim(leader, wake, Request.unpack(data), Descriptors(*descriptors))
    runs = shim.start(own.start_time)
    with suppress(OSError):
        os.write(taken, array.array("i", [os.getpid()]))
    os.close(taken)
    if runs:
        shim.guard()
