"""The HTTP face of the emulated agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from agora_conformance.emulators.nomad.api import Answer, Ask, Look
from agora_conformance.emulators.nomad.cluster import Cluster
from agora_conformance.emulators.nomad.control import CONTROL, Control
from agora_conformance.emulators.nomad.errors import ApiError
from agora_conformance.emulators.nomad.faults import Call, Cut
from agora_conformance.emulators.nomad.jobs_api import Jobs, split
from agora_conformance.emulators.nomad.jobspec import REGION
from agora_conformance.emulators.nomad.machines_api import Machines
from agora_conformance.emulators.nomad.records_api import Records
from agora_conformance.emulators.nomad.streams import EventStream, LogStream
from agora_conformance.emulators.nomad.variables_api import Variables

#: Bytes of a request.
BODY_LIMIT = 64 * 2**20
TEXT = {"Content-Type": "text/plain; charset=utf-8"}
Handler = Callable[[Ask], "Answer | Look"]
#: What a path's beginning is about, for the faults; the first that fits counts.
OPERATIONS = (
    ("/v1/event/stream", "stream"), ("/v1/client/fs/logs/", "logs"), ("/v1/client/allocation/", "signal"),
    ("/v1/jobs", "jobs"), ("/v1/job/", "job"), ("/v1/allocations", "allocations"), ("/v1/allocation/", "allocation"),
    ("/v1/evaluations", "evaluations"), ("/v1/evaluation/", "evaluation"), ("/v1/nodes", "nodes"),
    ("/v1/node/", "node"), ("/v1/agent/", "agent"), ("/v1/status/", "status"), ("/.well-known/jwks.json", "jwks"),
    ("/v1/vars", "variables"), ("/v1/var/", "variable"),
)  # fmt: skip
#: Paths that no leader is needed for.
LEADERLESS = ("agent", "status", "signal", "logs", "jwks", "stream")


class Server:
    """Answers requests.

    Parameters:
        cluster: what they are about.
        control: what goes past the API.
        address: where it answers.
    """

    def __init__(self, cluster: Cluster, control: Control, address: str) -> None:
        self._cluster, self._control = cluster, control
        jobs, records, machines = Jobs(cluster), Records(cluster), Machines(cluster, address)
        variables = Variables(cluster)
        self._exact: dict[str, Handler] = {
            "/v1/jobs": jobs.collection, "/v1/validate/job": jobs.validate, "/v1/allocations": records.allocations,
            "/v1/evaluations": records.evaluations, "/v1/nodes": machines.nodes, "/v1/node/pools": machines.pools,
            "/v1/regions": machines.status, "/v1/namespaces": machines.namespaces, "/v1/system/gc": machines.system,
            "/v1/system/reconcile/summaries": machines.system, "/.well-known/jwks.json": machines.keys,
            "/v1/namespace": machines.namespaces, "/v1/status/leader": machines.status,
            "/v1/status/peers": machines.status, "/v1/vars": variables.list,
        }  # fmt: skip
        self._below: dict[str, Handler] = {
            "/v1/job/": jobs.one, "/v1/allocation/": records.allocation, "/v1/evaluation/": records.evaluation,
            "/v1/client/allocation/": records.signal, "/v1/node/": machines.node, "/v1/agent/": machines.agent,
            "/v1/namespace/": machines.namespaces, "/v1/acl/": machines.acl,
            "/v1/var/": variables.one,
        }  # fmt: skip

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as error:
            return web.Response(status=error.code, body=error.text.encode(), headers={**TEXT, **error.headers})
        except (Cut, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = unquote(request.rel_url.raw_path)
        if path.startswith(CONTROL):
            return self._json(await self._control.do(request.method, path.removeprefix(CONTROL), request))
        await self._cluster.gate.passed()
        call = describe(request.method, path, str(request.rel_url))
        faults = self._cluster.faults
        faults.seen.append(call)
        await faults.apply("before", call)
        ask = await self._ask(request, path)
        if call.operation not in LEADERLESS:
            await faults.lead(stale="stale" in request.query and request.method == "GET")
        if call.operation == "stream":
            ask.needs("GET")
            return await EventStream(self._cluster, ask, request.query.getall("topic", [])).run(request)
        if call.operation == "logs":
            return await LogStream(self._cluster, ask).run(request)
        handler = self._exact.get(path) or next(
            (one for start, one in self._below.items() if path.startswith(start)), None
        )
        if handler is None:
            return web.Response(status=404, headers={"Content-Type": ""})
        answer = handler(ask)
        shown = answer if isinstance(answer, Answer) else await self._blocking(ask, answer)
        await faults.apply("after", call)
        return self._shown(shown)

    async def _ask(self, request: web.Request, path: str) -> Ask:
        token = request.headers.get("X-Nomad-Token") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.query.get("region", REGION) not in ("", REGION):
            raise ApiError(500, "No path to region")
        data = await request.read() if request.method in ("POST", "PUT") else b""
        body = _read(data) if data else None
        return Ask(request.method, path, request.query, body, self._cluster.access.rights(token), token)

    async def _blocking(self, ask: Ask, look: Look) -> Answer:
        """Read, and where the index is known already read again until there is a later one, or time is over."""
        after = ask.after()
        answer = look()
        if not after:
            return answer
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ask.wait()):
                while True:
                    news = self._cluster.store.news
                    answer = look()
                    if answer.index is None or answer.index > after:
                        return answer
                    await news.wait()
        return look()

    def _shown(self, answer: Answer) -> web.Response:
        headers = dict(answer.headers)
        if answer.index is not None:
            headers["X-Nomad-Index"] = str(answer.index)
        if answer.read:
            led = "true" if self._cluster.faults.led else "false"
            headers |= {"X-Nomad-Knownleader": led, "X-Nomad-Lastcontact": "0"}
        if answer.next:
            headers["X-Nomad-Nexttoken"] = answer.next
        if answer.error:
            return web.Response(status=404, body=answer.error.encode(), headers={**TEXT, **headers})
        if answer.body is None:
            return web.Response(status=answer.status, headers={"Content-Type": "", **headers})
        return self._json(answer.body, headers, answer.status)

    @staticmethod
    def _json(body: Any, headers: dict[str, str] | None = None, status: int = 200) -> web.Response:
        text = json.dumps(body, separators=(",", ":")).encode()
        return web.Response(status=status, body=text, headers={"Content-Type": "application/json", **(headers or {})})


def _read(data: bytes) -> Any:
    """Read a body.

    Raises:
        ApiError: 400 with what Go says of it.
    """
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        letter = error.doc[error.pos : error.pos + 1]
        where = "beginning of object key string" if "property name" in error.msg else "beginning of value"
        text = f"invalid character '{letter}' looking for {where}" if letter else "unexpected EOF"
        raise ApiError(400, text) from None
    except UnicodeDecodeError:
        raise ApiError(400, "invalid character looking for beginning of value") from None


def describe(method: str, path: str, url: str) -> Call:
    """Return what the faults know of a request."""
    start, operation = next((one for one in OPERATIONS if path.startswith(one[0])), ("", "other"))
    name = path.removeprefix(start) if start.endswith("/") else ""
    if operation == "job":
        name, view = split(name)
        operation = {"DELETE": "deregister", "POST": "register", "PUT": "register"}.get(method, "job")
        operation = f"job/{view}" if view else operation
    elif operation == "jobs" and method != "GET":
        operation = "register"
    elif operation == "variable" and method != "GET":
        operation = "variable/delete" if method == "DELETE" else "variable/write"
    elif operation in ("signal", "allocation", "node", "evaluation") and "/" in name:
        name, _, view = name.partition("/")
        operation = operation if operation == "signal" else f"{operation}/{view}"
    return Call(operation, name, method, url)
