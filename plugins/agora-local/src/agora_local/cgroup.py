"""A control group per workload, where the machine lets us make one: it kills a whole tree in one write.

It is an extra: without one the walk over the tree does the same work. Imported by the fork server too, so it needs
the standard library alone.
"""

from __future__ import annotations

import functools
import os
import struct

from agora_local import processes

#: clone3(2): one number on every architecture; CLONE_INTO_CGROUP is there since Linux 5.7.
_SYS_CLONE3 = 435
_CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17
#: What the names of our groups begin with.
PREFIX = "agora-"


class Cgroup:
    """One control group of the second version.

    Parameters:
        path: its directory.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def make(cls, path: str) -> Cgroup | None:
        """Make the group, or return None where the machine does not let us, or it cannot kill (before Linux 5.14)."""
        try:
            os.mkdir(path)
        except FileExistsError:
            pass
        except OSError:
            return None
        group = cls(path)
        if not os.access(f"{path}/cgroup.kill", os.W_OK):
            group.remove()
            return None
        return group

    def fork(self) -> int:
        """Fork into the group; like `os.fork`, for a process with one thread whose child goes on to exec.

        Moving a process into a group after the fork takes the kernel 7-15 ms on an idle machine (it waits for a
        grace period of RCU), so the child is born there.

        Raises:
            OSError: the kernel refused.
        """
        group = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls,
            # set_tid, set_tid_size, cgroup
            arguments = struct.pack("11Q", _CLONE_INTO_CGROUP, 0, 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, group)
            return processes.syscall(_SYS_CLONE3, arguments, len(arguments))
        finally:
            os.close(group)

    def kill(self) -> None:
        """Kill every process in the group and below it; what is forked meanwhile dies too."""
        try:
            descriptor = os.open(f"{self.path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            os.write(descriptor, b"1")
        finally:
            os.close(descriptor)

    def empty(self) -> bool:
        """Whether no process is in the group or below it; a group that is gone is empty."""
        try:
            descriptor = os.open(f"{self.path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            return b"populated 0" in os.read(descriptor, 4096)
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Remove the group and those that the workload made below it; one that is still in use stays."""
        for directory, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                return


def sweep(parent: str) -> None:
    """Remove groups of ours that nobody is in any more: their shims were killed while they stood by."""
    for name in os.listdir(parent):
        group = Cgroup(f"{parent}/{name}")
        if name.startswith(PREFIX) and group.empty():
            group.remove()


def parent_path() -> str | None:
    """Return the directory of this process's own group, if a workload's can be made below it.

    /proc/self/cgroup names it relative to where the hierarchy is mounted (cgroups(7)).
    """
    groups = processes.read_file("/proc/self/cgroup").splitlines()
    own = next((os.fsdecode(line[3:]) for line in groups if line.startswith(b"0::")), None)
    if own is None:
        return None
    for root, point in _mounts():
        if root == "/" or own == root or own.startswith(root + "/"):
            path = (point + own.removeprefix(root.rstrip("/"))).rstrip("/")
            # The journal takes plain text.
            return path if path.isascii() and path.isprintable() and os.access(path, os.W_OK) else None
    return None


@functools.cache
def _mounts() -> list[tuple[str, str]]:
    """Return root and mount point of every mount of the second version."""
    found = []
    with open("/proc/self/mountinfo", "rb") as mounts:
        for mount in mounts:
            fields, _, source = mount.partition(b" - ")
            if source.startswith(b"cgroup2 "):
                root, point = fields.split()[3:5]
                found.append((os.fsdecode(root), os.fsdecode(point)))
    return found
