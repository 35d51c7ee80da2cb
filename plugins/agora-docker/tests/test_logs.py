"""Output: both streams, from where one wants, along with the workload, over cut connections, after the end."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from agora.model.observation import Handle, LogChunk
from agora_docker.testing.proxy import Proxy
from docker_harness import STUBBORN, Docker, eventually

pytestmark = pytest.mark.backend("docker")
LINES = ("sh", "-c", "for n in 1 2 3; do echo out$n; echo err$n >&2; done")


def test_both_streams_after_the_end(docker: Docker) -> None:
    handle = docker.start(*LINES)
    docker.end(handle)
    assert docker.output(handle) == b"out1\nout2\nout3\n"
    assert docker.output(handle, "stderr") == b"err1\nerr2\nerr3\n"


def test_bytes_arrive_unchanged(docker: Docker) -> None:
    # The engine's default log holds text: what is no UTF-8 is replaced there, before anybody can read it.
    command = "printf '\\000 \\342\\234\\223 2026-01-01T00:00:00Z no newline'; head -c 100000 /dev/zero"
    handle = docker.start("sh", "-c", command)
    docker.end(handle)
    assert docker.output(handle) == "\0 ✓ 2026-01-01T00:00:00Z no newline".encode() + b"\0" * 100_000


def test_the_last_lines_and_a_moment_on(docker: Docker) -> None:
    handle = docker.start("sh", "-c", "echo first; sleep 1; echo second; echo third")
    docker.end(handle)
    read = docker.provider.logs
    assert b"".join(chunk.data for chunk in read(handle, False, None, 2)) == b"second\nthird\n"
    begun = next(iter(read(handle, False, None, None))).at
    assert begun is not None
    later = list(read(handle, False, begun + timedelta(seconds=0.5), None))
    assert b"".join(chunk.data for chunk in later) == b"second\nthird\n"
    assert b"".join(chunk.data for chunk in read(handle, True, None, 1)) == b"third\n"


class Follower:
    """Follows the output of a workload in a thread."""

    def __init__(self, docker: Docker, handle: Handle) -> None:
        self.chunks: list[LogChunk] = []
        self.failure: Exception | None = None
        self._docker = docker
        self._handle = handle
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for chunk in self._docker.provider.logs(self._handle, True, None, None):
                self.chunks.append(chunk)
        except Exception as error:  # noqa: BLE001 - the test fails with it in its own thread
            self.failure = error

    @property
    def text(self) -> bytes:
        """What was read so far."""
        return b"".join(chunk.data for chunk in self.chunks)


def test_following_ends_with_the_workload(docker: Docker) -> None:
    handle = docker.start("sh", "-c", "trap 'echo 2; exit' USR1; echo 1; while :; do sleep 0.05; done")
    follower = Follower(docker, handle)
    eventually(lambda: follower.text == b"1\n")
    docker.post(f"/containers/{handle.data['container']}/kill", signal="SIGUSR1")
    follower.thread.join(50)
    assert not follower.thread.is_alive()
    assert follower.text == b"1\n2\n"


def test_a_follower_of_a_silent_workload_hears_every_second(docker: Docker) -> None:
    follower = Follower(docker, docker.started(*STUBBORN))
    eventually(lambda: sum(not chunk.data for chunk in follower.chunks) >= 2, 20)


def test_a_cut_connection_loses_and_repeats_nothing(cuttable: Docker, proxy: Proxy) -> None:
    handle = cuttable.start("sh", "-c", "n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n; sleep 0.1; done")
    follower = Follower(cuttable, handle)
    eventually(lambda: b"\n15\n" in follower.text)
    proxy.cut()
    eventually(lambda: not proxy.connections)
    proxy.heal()
    follower.thread.join(50)
    assert not follower.thread.is_alive()
    assert follower.failure is None
    assert follower.text.split() == [str(number).encode() for number in range(1, 61)]
