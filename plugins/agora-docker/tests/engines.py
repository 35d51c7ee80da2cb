"""What some tests start for themselves: an engine, certificates, an ssh server, a registry."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

from docker_harness import eventually


def free_port() -> int:
    """Return a port that nobody listens on, below those that the system gives to whoever asks for any."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port


def listens(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def surroundings() -> dict[str, str]:
    """Return the environment of a program of the system: root's own, whatever PATH the tests were started with."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


class Program(ABC):
    """A program that runs for the time of a block; its output is in `log`.

    Parameters:
        folder: where it may keep files.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, *words: str | Path) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                words, env=surroundings(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)

    @abstractmethod
    def begin(self) -> None:
        """Start it and wait until it listens."""

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Certificates:
    """A certificate authority, and one certificate for both sides.

    Parameters:
        folder: where they are put.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        ca_key, request, extra = folder / "ca-key.pem", folder / "request.pem", folder / "extra"
        extra.write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        new = ("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj")
        _quietly(*new, "/CN=test-ca", "-x509", "-days", "2", "-keyout", ca_key, "-out", self.ca)
        _quietly(*new, "/CN=test", "-keyout", self.key, "-out", request)
        sign = ("openssl", "x509", "-req", "-days", "2", "-CAcreateserial", "-extfile", extra)
        _quietly(*sign, "-in", request, "-CA", self.ca, "-CAkey", ca_key, "-out", self.cert)


def _quietly(*words: str | Path) -> None:
    subprocess.run(words, env=surroundings(), check=True, capture_output=True, timeout=60)


def _lives(pid: str) -> bool:
    """Whether a process lives; one that is dead and not reaped does not."""
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return False


class PrivateEngine(Program):
    """An engine beside the one of this machine.

    Parameters:
        folder: where it keeps everything.
        tls: listen on a port with these certificates, not on a socket.
        options: further options of dockerd.
    """

    def __init__(self, folder: Path, tls: Certificates | None = None, options: tuple[str, ...] = ()) -> None:
        super().__init__(folder)
        self._tls = tls
        self._options = options
        self._port = free_port()
        self._bridge = f"agora{self._port}"
        # The sockets below must not have names of more than 104 bytes.
        self._run = Path(tempfile.mkdtemp(prefix="agora-engine-"))
        self._containerd = self._run / "run/containerd/containerd.pid"

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.folder}/docker.sock" if self._tls is None else f"tcp://127.0.0.1:{self._port}"

    def begin(self) -> None:
        """Start it and wait until it answers."""
        # A bridge of its own: with none at all dockerd removes the one of this machine's engine.
        if not Path(f"/sys/class/net/{self._bridge}").exists():
            _quietly("ip", "link", "add", "name", self._bridge, "type", "bridge")
            _quietly("ip", "address", "add", f"172.31.{self._port % 256}.1/24", "dev", self._bridge)
        words: list[str | Path] = ["dockerd", "--host", self.url, "--bridge", self._bridge, "--iptables=false"]
        words += ["--data-root", self._run / "data", "--exec-root", self._run / "run"]
        words += ["--pidfile", self.folder / "pid", *self._options]
        if self._tls is not None:
            words += [
                "--tlsverify",
                "--tlscacert",
                self._tls.ca,
                "--tlscert",
                self._tls.cert,
                "--tlskey",
                self._tls.key,
            ]
        self.launch(*words)
        eventually(self._answers)

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, and wait for the end of its containerd, which the next one would take for its own."""
        super().end(number)
        if self._containerd.exists():
            eventually(lambda: not _lives(self._containerd.read_text().strip()))
            self._containerd.unlink()

    def end_containerd(self) -> None:
        """Kill its containerd, which it starts again by itself."""
        os.kill(int(self._containerd.read_text()), signal.SIGKILL)

    def _answers(self) -> bool:
        if self._tls is not None:
            return listens(self._port)
        with socket.socket(socket.AF_UNIX) as one:
            return one.connect_ex(str(self.folder / "docker.sock")) == 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        _quietly("ip", "link", "delete", self._bridge)
        # An engine whose containers live on, or that was killed, leaves processes and mounts.
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(self._run).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in sorted((path for path in mounts if path.startswith(f"{self._run}/")), reverse=True):
            subprocess.run(("umount", "-l", path), check=False)
        shutil.rmtree(self._run, ignore_errors=True)


class SshServer(Program):
    """An ssh server for this user alone, on whose side `docker system dial-stdio` leads to an engine.

    Parameters:
        folder: keys and settings.
        engine: path of the engine's socket.
    """

    def __init__(self, folder: Path, engine: str) -> None:
        super().__init__(folder)
        self._port = free_port()
        self.bin = folder / "bin"
        self.bin.mkdir()
        key, host = folder / "key", folder / "host"
        for path in (key, host):
            _quietly("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
        forced = f'command="DOCKER_HOST=unix://{engine} $SSH_ORIGINAL_COMMAND" '
        (folder / "authorized").write_text(forced + key.with_suffix(".pub").read_text())
        (folder / "known").write_text(f"[127.0.0.1]:{self._port} {host.with_suffix('.pub').read_text()}")
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self._port}\nHostKey {host}\nAuthorizedKeysFile {folder / 'authorized'}\n"
            "StrictModes no\nUsePAM no\nPermitRootLogin yes\nMaxStartups 200\nMaxSessions 200\n"
        )
        # The user's own ssh settings are no part of the test.
        ssh = self.bin / "ssh"
        real = shutil.which("ssh")
        ssh.write_text(f'#!/bin/sh\nexec {real} -F none -i {key} -o UserKnownHostsFile={folder / "known"} "$@"\n')
        ssh.chmod(0o755)

    @property
    def url(self) -> str:
        """The engine's address by way of it."""
        return f"ssh://root@127.0.0.1:{self._port}"

    def begin(self) -> None:
        """Start it and wait until it listens."""
        Path("/run/sshd").mkdir(exist_ok=True)
        self.launch(shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", self.folder / "sshd_config")
        eventually(lambda: listens(self._port))


class Registry(Program):
    """Debian's docker-registry on loopback.

    Parameters:
        folder: where it keeps its images.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = free_port()

    def begin(self) -> None:
        """Start it and wait until it listens."""
        config = self.folder / "config.yml"
        config.write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {self.folder / 'images'}}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}'}}\nlog: {{level: warn}}\n"
        )
        self.launch("docker-registry", "serve", config)
        eventually(lambda: listens(self.port))
