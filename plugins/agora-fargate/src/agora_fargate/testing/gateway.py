"""A gateway in front of AWS, from which one installation can be cut off.

A request is signed for the host that it goes to: so what comes in with a key of the gateway's own is signed anew,
with the credentials of whoever runs the suite, and those stay in this process.
"""

from __future__ import annotations

import re
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agora_fargate.connect import Connection

#: Headers that AWS gets from the client, and the client from AWS.
_TO_AWS = ("Content-Type", "User-Agent", "X-Amz-Target", "x-amzn-query-mode")
_FROM_AWS = ("Content-Type", "Date", "x-amzn-RequestId", "x-amzn-query-error")
#: What the credential scope of a signature looks like, and the services that are passed on.
_SCOPE = re.compile(r"Credential=([^/]+)/\d+/[^/]+/([^/]+)/aws4_request")
_SERVICES = ("ecs", "logs", "secretsmanager", "sqs")
#: What AWS says of a key that it does not know.
_STRANGER = b'{"__type": "UnrecognizedClientException", "message": "The security token in the request is invalid."}'
#: Seconds to connect, and for an answer; longer than any poll of a queue.
_TIMEOUT = (5.0, 60.0)


class Gateway:
    """Listens on the loopback interface and passes on what comes with its key, with the connection's credentials.

    Parameters:
        connection: the way to AWS.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._key = f"AKIA{secrets.token_hex(8).upper()}"
        self._lock = threading.Lock()
        self._cut: set[str] = set()
        gateway = self

        class Handler(_Handler):
            def take(self) -> None:
                gateway._take(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="fargate-gateway", daemon=True).start()

    def config_file(self, path: Path) -> Path:
        """Write a configuration file of AWS whose profile `gateway` leads through here, and return its path."""
        lines = (
            "[profile gateway]",
            f"region = {self._connection.region}",
            f"endpoint_url = http://127.0.0.1:{self._server.server_port}",
            f"aws_access_key_id = {self._key}",
            "aws_secret_access_key = gateway",
        )
        path.touch(mode=0o600)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def cut(self, agent: str) -> None:
        """Let no request to ECS through whose client calls itself so: it gets no answer."""
        with self._lock:
            self._cut.add(agent)

    def heal(self, agent: str) -> None:
        """Let them through again."""
        with self._lock:
            self._cut.discard(agent)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def _is_cut(self, service: str, agent: str) -> bool:
        with self._lock:
            return service == "ecs" and any(one in agent for one in self._cut)

    def _take(self, handler: _Handler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        scope = _SCOPE.search(handler.headers.get("Authorization", ""))
        if scope is None or not secrets.compare_digest(scope[1], self._key) or scope[2] not in _SERVICES:
            handler.answer(400, {"Content-Type": "application/x-amz-json-1.1"}, _STRANGER)
            return
        if self._is_cut(scope[2], handler.headers.get("User-Agent", "")):
            handler.close_connection = True
            return
        headers = {name: handler.headers[name] for name in _TO_AWS if name in handler.headers}
        answer = self._send(scope[2], body, headers)
        if answer is None or self._is_cut(scope[2], handler.headers.get("User-Agent", "")):
            handler.close_connection = True
            return
        handler.answer(answer.status_code, answer.headers, answer.content)

    def _send(self, service: str, body: bytes, headers: dict[str, str]) -> Any:
        """Sign a request, send it and return the answer; null where there is none."""
        from botocore.auth import SigV4Auth  # type: ignore[import-untyped]
        from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
        from botocore.exceptions import BotoCoreError, HTTPClientError  # type: ignore[import-untyped]
        from botocore.httpsession import URLLib3Session  # type: ignore[import-untyped]
        from botocore.utils import get_environ_proxies  # type: ignore[import-untyped]

        connection = self._connection
        meta = connection.client(service).meta
        request = AWSRequest("POST", meta.endpoint_url, headers, body)
        try:
            credentials = connection.credentials.get_frozen_credentials()
            SigV4Auth(credentials, meta.service_model.signing_name, connection.region).add_auth(request)
            proxies = get_environ_proxies(meta.endpoint_url)
            session = URLLib3Session(verify=connection.verify, proxies=proxies, timeout=_TIMEOUT)
            try:
                return session.send(request.prepare())
            finally:
                session.close()
        except (BotoCoreError, HTTPClientError):
            return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def take(self) -> None:
        """Answer one request."""

    def do_POST(self) -> None:
        """Answer a request of the only kind that these services know."""
        self.take()

    def answer(self, status: int, headers: Any, content: bytes) -> None:
        """Send an answer."""
        self.send_response_only(status)
        for name in _FROM_AWS:
            if name in headers:
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
