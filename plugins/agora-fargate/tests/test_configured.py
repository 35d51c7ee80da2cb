"""The suite in an account that somebody has configured, here an emulator of which it knows nothing."""

from __future__ import annotations

import json
import os
import select
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from agora.errors import PermissionDenied, Unreachable
from agora.model.observation import Phase
from agora_conformance.emulators.ecs import EcsEmulator, Image, Timing
from agora_fargate import api, names
from agora_fargate.config import FargateConfig
from agora_fargate.connect import Connection
from agora_fargate.testing.gateway import Gateway
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fargate_harness import GROUP, ROLE, Hands, aws_config

pytestmark = pytest.mark.backend("fargate")

#: What needs more than the provider's own requests: a cut of the API, another image, a task of nobody's.
HANDS = ("AWAY-01", "DISP-12", "FOREIGN-02")


@pytest.mark.timeout(400)
def test_a_configured_account_is_tested_whole(tmp_path: Path) -> None:
    images = {"own/entrypoint:1": Image(entrypoint=("sh", "-c", "exit 9"))}
    with EcsEmulator(timing=Timing().hurried(0.02), images=images, log_groups=(GROUP,), throttle=False) as emulator:
        (tmp_path / "account.toml").write_text(
            f'config_file = "{aws_config(tmp_path / "aws-config", emulator)}"\nprofile = "emulated"\n'
            'image = "busybox"\nlog_lag = 0.5\nshare = 8\n'
            f'[defaults]\nsubnets = ["subnet-1"]\nexecution_role = "{ROLE}"\n'
            '[conformance]\nentrypoint_image = "own/entrypoint:1"\n'
        )
        command = [sys.executable, "-m", "agora_conformance", "run", "fargate", "--profile", "extended"]
        command += ["--target-config", str(tmp_path / "account.toml"), "--report", str(tmp_path / "report.json")]
        command += [word for id in HANDS for word in ("--only", id)]
        environment = {**os.environ, "AGORA_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
        # As in any account: a variable would lead the suite's clients past the gateway.
        environment["AWS_ENDPOINT_URL_ECS"] = emulator.url
        past = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    report = json.loads((tmp_path / "report.json").read_text())
    assert {row["id"]: row["status"] for row in report["checks"]} == dict.fromkeys(HANDS, "pass"), done.stdout
    assert report["backend"]["emulated"] is False, "nothing told the suite that it is an emulator"
    assert past.returncode != 0
    assert "AWS_ENDPOINT_URL_ECS would lead the suite past its gateway" in " ".join(past.stderr.split())


def test_the_gateway_signs_anew_and_cuts_one_installation_off(tmp_path: Path) -> None:
    with EcsEmulator(
        timing=Timing().hurried(0.02), log_groups=(GROUP,), throttle=False, keys=("AKIAEMULATOR",)
    ) as emulator:
        config = FargateConfig(config_file=aws_config(tmp_path / "real", emulator), profile="emulated")
        gateway = Gateway(Connection("a test", config))
        way = gateway.config_file(tmp_path / "through")
        assert way.stat().st_mode & 0o077 == 0
        assert "AKIAEMULATOR" not in way.read_text()
        through = {"config_file": str(way), "profile": "gateway"}
        here, there = (Hands(emulator, tmp_path, name, **through) for name in ("here", "there"))
        handle, other = here.start(secrets={"A": "x"}), there.start()
        here.ready(handle)
        gateway.cut(names.agent("here"))
        with pytest.raises(Unreachable) as caught:
            here.stop(handle)
        assert caught.value.sent is True, "nobody can tell"
        assert there.observe(other).phase in (Phase.PENDING, Phase.RUNNING)
        gateway.heal(names.agent("here"))
        here.stop(handle)
        assert here.end(handle).exit_code == 42
        assert emulator.terms(handle.data["task"]) != []
        (tmp_path / "forged").write_text(way.read_text().replace("AKIA", "AKIB"))
        forged = Hands(emulator, tmp_path, config_file=str(tmp_path / "forged"), profile="gateway")
        with pytest.raises(PermissionDenied, match="UnrecognizedClientException"):
            forged.provider.identity()
        for one in (here, there):
            one.clean()
        gateway.close()


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agora test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return folder / "cert.pem", folder / "key.pem"


class Relay(socketserver.BaseRequestHandler):
    """Passes one request on to the emulator, and its answer back."""

    port: int

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 20) as onward:
            # One thread for both ways: OpenSSL's connections are no matter for two.
            while True:
                ready = [self.request] if self.request.pending() else select.select([self.request, onward], [], [])[0]
                for source in ready:
                    if not (data := source.recv(65_536)):
                        return
                    (onward if source is self.request else self.request).sendall(data)


@contextmanager
def with_tls(port: int, cert: Path, key: Path) -> Iterator[str]:
    """Put TLS in front of a port, and yield where."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    handler = type("Onward", (Relay,), {"port": port})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that trusts nobody hangs up
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_way_on_is_https_and_checks_who_answers(
    emulator: EcsEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "CALL_SECONDS", 2.0)  # for so long a server is asked again that nobody vouches for
    cert, key = certificate(tmp_path)
    with with_tls(emulator.port, cert, key) as url:
        real = aws_config(tmp_path / "real", emulator, url)
        for trusted in (False, True):
            if trusted:
                real.write_text(f"{real.read_text()}ca_bundle = {cert}\n")
            gateway = Gateway(Connection("a test", FargateConfig(config_file=real, profile="emulated")))
            through = {"config_file": str(gateway.config_file(tmp_path / "through")), "profile": "gateway"}
            hands = Hands(emulator, tmp_path, **through)
            if trusted:
                assert hands.provider.identity().endswith(":cluster/default")
            else:
                with pytest.raises(Unreachable):
                    hands.provider.identity()
            hands.provider.close()
            gateway.close()
