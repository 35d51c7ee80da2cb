"""The traps of python-nomad, each sprung on purpose: the provider does not fall into it."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from agora.errors import ConfigError, PermissionDenied, Unreachable
from agora.model.ids import new_dispatch_id
from agora.model.spec import Spec
from agora.provider import Installation
from agora_nomad import PROVIDER, api, names, starting
from agora_nomad.api import Api, NodeAway, Refusal, Taken
from agora_nomad.config import NomadConfig
from agora_nomad.connect import connect, read_settings

TOKEN = "3f8a3b1c-0000-secret"


class Agent:
    """An agent that answers what it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, bytes, dict[str, str]]] = []
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                agent.asked.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
                status, body, headers = agent.answers.pop(0) if agent.answers else (200, b"{}", {})
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_DELETE = do_POST = do_PUT = do_GET  # noqa: N815 - names of http.server

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def says(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        self.answers.append((status, body, {name.replace("_", "-"): value for name, value in headers.items()}))

    def begin(self) -> None:
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def pause(self) -> None:
        self.server.shutdown()
        self.thread.join(50)

    def close(self) -> None:
        self.pause()
        self.server.server_close()


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent()
    made.begin()
    yield made
    made.close()


def api_of(address: str, **config: Any) -> Api:
    return Api(connect("t", NomadConfig(address=address, **config)))


def test_the_client_is_imported_only_when_a_hook_needs_it() -> None:
    code = (
        "import sys, pathlib; from agora_nomad import PROVIDER; from agora.provider import Installation\n"
        "PROVIDER.create('t', PROVIDER.config_model(), Installation('i', pathlib.Path('.')))\n"
        "assert not {'nomad', 'requests', 'urllib3'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


# -- ids ---------------------------------------------------------------------------------------------------------


def test_ids_are_quoted(agent: Agent) -> None:
    agent.says(200, b'{"EvalID": "x"}')
    assert api_of(agent.address).deregister("a/b c#d?e&purge=true") is True
    ((method, path, _, _),) = agent.asked
    assert (method, path) == ("DELETE", "/v1/job/a%2Fb%20c%23d%3Fe%26purge%3Dtrue?namespace=default")


def test_the_path_of_a_variable_keeps_its_slashes_and_nothing_else(agent: Agent) -> None:
    agent.says(204, b"")
    api_of(agent.address).remove_variable("nomad/jobs/a b/c?d")
    ((method, path, _, _),) = agent.asked
    assert (method, path) == ("DELETE", "/v1/var/nomad/jobs/a%20b/c%3Fd?namespace=default")


def test_an_id_that_is_none_never_reaches_the_cluster(agent: Agent, tmp_path: Path) -> None:
    config = NomadConfig(address=agent.address, image="x")
    provider: Any = PROVIDER.create("t", config, Installation("i", tmp_path))
    with pytest.raises(Exception, match="id"):
        provider.find("a/b?c")
    with pytest.raises(Exception, match="id"):
        provider.dispatch("a/b?c", Spec(command=("a",)), lambda: None)
    assert not [path for _, path, _, _ in agent.asked if "jwks" not in path]


# -- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=agent"),
            *("-addext", "subjectAltName=DNS:server.global.nomad,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
        timeout=50,
    )
    return cert, key


@pytest.fixture
def secure(agent: Agent, certificate: tuple[Path, Path]) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    agent.pause()  # nobody may wait on a socket that is being replaced
    agent.server.socket = context.wrap_socket(agent.server.socket, server_side=True)
    agent.begin()
    return agent.address.replace("http://", "https://")


def test_a_certificate_is_verified_unless_somebody_says_otherwise(
    secure: str, agent: Agent, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TOKEN", TOKEN)
    with pytest.raises(Unreachable, match="certificate") as refused:
        api_of(secure).job("x")
    assert refused.value.sent is False
    assert not agent.asked
    monkeypatch.setenv("NOMAD_CACERT", str(certificate[0]))
    assert api_of(secure).job("x") == {}


def test_the_name_in_the_certificate_can_be_another_than_the_address(
    secure: str, certificate: tuple[Path, Path]
) -> None:
    assert api_of(secure, ca_cert=certificate[0], tls_server_name="server.global.nomad").job("x") == {}
    with pytest.raises(Unreachable, match="match"):
        api_of(secure, ca_cert=certificate[0], tls_server_name="client.global.nomad").job("x")


def test_variables_are_read_and_the_configuration_goes_first(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key", "other", "token"):
        (tmp_path / name).touch()
    environment = {
        "NOMAD_ADDR": "https://a:1/",
        "NOMAD_TOKEN": TOKEN,
        "NOMAD_NAMESPACE": "n",
        "NOMAD_REGION": "r",
        "NOMAD_CACERT": str(tmp_path / "ca"),
        "NOMAD_CLIENT_CERT": str(tmp_path / "cert"),
        "NOMAD_CLIENT_KEY": str(tmp_path / "key"),
        "NOMAD_TLS_SERVER_NAME": "s",
    }
    read = read_settings("t", NomadConfig(), environment)
    assert (read.address, read.token, read.namespace, read.region) == ("https://a:1", TOKEN, "n", "r")
    assert (read.verify, read.server_name) == (str(tmp_path / "ca"), "s")
    assert read.certificate == (str(tmp_path / "cert"), str(tmp_path / "key"))
    assert TOKEN not in read.source
    own = NomadConfig(
        address="http://b:2", namespace="m", region="q", ca_cert=tmp_path / "other", token_file=tmp_path / "token"
    )
    read = read_settings("t", own, environment)
    assert (read.address, read.namespace, read.region, read.verify) == ("http://b:2", "m", "q", str(tmp_path / "other"))
    assert (read.token, read.token_file) == (None, tmp_path / "token")
    bare = read_settings("t", NomadConfig(), {})
    assert (bare.address, bare.namespace, bare.region, bare.verify) == ("http://127.0.0.1:4646", "default", None, True)
    assert read_settings("t", NomadConfig(), {"NOMAD_SKIP_VERIFY": "false"}).verify is True
    assert read_settings("t", NomadConfig(), {"NOMAD_SKIP_VERIFY": "1"}).verify is False


@pytest.mark.parametrize(
    "config",
    [
        {"address": "unix:///run/nomad.sock"},
        {"address": "nomad:4646"},
        {"address": "http://user:password@nomad"},
        {"namespace": "*"},
        {"client_cert": Path(__file__)},
        {"ca_cert": Path("/no/such/file")},
        {"token_file": Path("/no/such/file")},
    ],
)
def test_settings_that_cannot_be_used_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        read_settings("t", NomadConfig(**config), {})


# -- the token ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "post", "put", "delete"])
def test_a_redirect_is_no_success_and_takes_no_token_along(
    agent: Agent, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TOKEN", TOKEN)
    other = Agent()
    other.begin()
    try:
        agent.says(307, b"", Location=f"{other.address}/v1/jobs")
        with pytest.raises(Unreachable, match="redirects"):
            api_of(agent.address).call(method, "jobs", body={} if method in ("post", "put") else None)
        assert other.asked == []
        assert agent.asked[0][2]["X-Nomad-Token"] == TOKEN
    finally:
        other.close()


def test_a_token_file_is_read_again_and_netrc_is_not(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n", encoding="utf-8")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("NOMAD_TOKEN", "of the environment")
    file = tmp_path / "token"
    file.write_text("first\n", encoding="utf-8")
    asked = api_of(agent.address, token_file=file)
    asked.job("x")
    time.sleep(0.02)  # the clock of the file system
    file.write_text("second\n", encoding="utf-8")
    asked.job("x")
    assert [headers["X-Nomad-Token"] for _, _, headers, _ in agent.asked] == ["first", "second"]
    assert not [headers for _, _, headers, _ in agent.asked if "Authorization" in headers]


def test_a_refusal_names_where_the_token_came_from_and_not_the_token(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TOKEN", TOKEN)
    agent.says(403, b"Permission denied")
    with pytest.raises(PermissionDenied, match="NOMAD_TOKEN") as refused:
        api_of(agent.address).job("x")
    assert TOKEN not in str(refused.value)


# -- answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (403, "Permission denied", PermissionDenied),
        (500, "rpc error: Permission denied", PermissionDenied),
        (404, "No path to node", NodeAway),
        (500, "Task not running", Refusal),
        (500, 'Unknown allocation "x"', Refusal),
        (500, "No path to region", Refusal),
        (400, "must provide log type (stdout/stderr)", Refusal),
        (500, "1 error occurred:\n\t* connection draining is no word of this job", Refusal),
    ],
)
def test_errors_in_nomads_words(agent: Agent, status: int, body: str, kind: type[Exception]) -> None:
    agent.says(status, body.encode())
    with pytest.raises(kind) as refused:
        api_of(agent.address).call("get", "jobs")
    assert type(refused.value) is kind
    assert len(agent.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (409, '{"ModifyIndex": 7, "Items": {"environment": "TOKEN=hidden"}}', Taken),
        (403, "Permission denied: hidden", PermissionDenied),
        (500, "variables are limited to 64KiB in total size: hidden", Refusal),
        (400, "hidden", Refusal),
        (500, "rpc error: hidden", Unreachable),
        (502, "<html>hidden</html>", Unreachable),
    ],
)
def test_what_is_said_of_a_variable_is_not_passed_on(
    agent: Agent, status: int, body: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """python-nomad puts the whole answer into its error, and a conflict shows the variable with its contents."""
    monkeypatch.setattr(api, "CALL_SECONDS", 0.1)
    for _ in range(3):
        agent.says(status, body.encode())
    with pytest.raises(Exception, match=r".") as refused:
        api_of(agent.address).write_variable("nomad/jobs/x", {"a": "hidden"}, 0)
    assert isinstance(refused.value, kind)
    assert "hidden" not in str(refused.value)
    assert getattr(refused.value, "index", 7) == 7
    assert json.loads(agent.asked[0][3]) == {"Items": {"a": "hidden"}}
    assert agent.asked[0][1] == "/v1/var/nomad/jobs/x?namespace=default&cas=0"


@pytest.mark.parametrize(
    ("status", "body"), [(500, b"No cluster leader"), (429, b""), (503, b""), (500, b"rpc error: EOF")]
)
def test_what_passes_is_asked_again(agent: Agent, status: int, body: bytes) -> None:
    agent.says(status, body)
    agent.says(200, b'{"ID": "x"}')
    assert api_of(agent.address).job("x") == {"ID": "x"}


def test_no_leader_is_no_end(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "CALL_SECONDS", 0.5)
    for _ in range(20):
        agent.says(500, b"No cluster leader")
    with pytest.raises(Exception, match="No cluster leader") as unsaid:
        api_of(agent.address).job("x")
    assert isinstance(unsaid.value, Unreachable)


def test_404_is_absent_and_other_pages_are_no_answer(agent: Agent) -> None:
    agent.says(404, b"job not found")
    assert api_of(agent.address).job("x") is None
    agent.says(200, b"<html>welcome</html>")
    with pytest.raises(Unreachable, match="not Nomad's"):
        api_of(agent.address).job("x")


def test_nobody_there_was_certainly_not_asked() -> None:
    with socket.socket() as held:  # by us, so that nobody else can listen there
        held.bind(("127.0.0.1", 0))
        with pytest.raises(Unreachable) as away:
            api_of(f"http://127.0.0.1:{held.getsockname()[1]}").job("x")
    assert away.value.sent is False


def test_a_peer_that_never_answers_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "READ_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        with pytest.raises(Unreachable) as away:
            api_of(f"http://127.0.0.1:{mute.getsockname()[1]}").job("x")
    assert time.monotonic() - began < 10
    assert away.value.sent is True


def test_headers_are_not_lost(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """python-nomad's getters drop the header that says that a list goes on."""
    agent.says(200, b'[{"ID": "a"}]', X_Nomad_Nexttoken="b")
    agent.says(200, b'[{"ID": "b"}]')
    found = api_of(agent.address).select("jobs", 'Meta["x"] == "y"', meta="true")
    assert [one["ID"] for one in found] == ["a", "b"]
    assert "next_token=b" in agent.asked[1][1]


# -- idempotency -------------------------------------------------------------------------------------------------


def test_the_fence_is_one_that_nomad_reads(agent: Agent) -> None:
    id = new_dispatch_id()
    agent.says(200, json.dumps({"EvalID": "e", "JobModifyIndex": 7}).encode())
    made = starting.start(
        api_of(agent.address), NomadConfig(image="x"), "i", id, Spec(command=("a",)), check=lambda: None
    )
    assert made["CreateIndex"] == 7
    ((method, path, _, body),) = agent.asked
    assert (method, path) == ("POST", "/v1/jobs?namespace=default")
    sent = json.loads(body)
    assert (sent["EnforceIndex"], sent["JobModifyIndex"], sent["Job"]["ID"]) == (True, 0, names.job_id(id))
    assert set(sent) == {"Job", "EnforceIndex", "JobModifyIndex"}
