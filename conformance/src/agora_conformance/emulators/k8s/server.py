"""The HTTP face of the emulated API server."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from aiohttp import web

from agora_conformance.emulators.k8s import discovery, routes, tables
from agora_conformance.emulators.k8s.access import Access
from agora_conformance.emulators.k8s.cluster import Cluster
from agora_conformance.emulators.k8s.control import CONTROL, Control
from agora_conformance.emulators.k8s.errors import ApiError, Object, bad_request
from agora_conformance.emulators.k8s.faults import Call, Cut, Faults
from agora_conformance.emulators.k8s.nodes import Node
from agora_conformance.emulators.k8s.operations import Operations
from agora_conformance.emulators.k8s.streams import PodLog, Watch

#: Bytes of a request; the API server's limit.
BODY_LIMIT = 3 * 2**20
HEALTH = ("/healthz", "/livez", "/readyz")


class Server:
    """Answers requests.

    Parameters:
        cluster: what they are about.
        node: has the logs.
        access: who may do what.
        faults: what goes wrong on purpose.
        bookmarks: seconds between two bookmarks of a watch.
    """

    def __init__(self, cluster: Cluster, node: Node, access: Access, faults: Faults, bookmarks: float) -> None:
        self._cluster, self._kubelet, self._access, self._faults = cluster, node.kubelet, access, faults
        self._control = Control(cluster, node, faults)
        self._operations = Operations(cluster, access, faults)
        self._bookmarks = bookmarks

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as error:
            return self._json(error.status(), error.code, error.headers)
        except web.HTTPRequestEntityTooLarge:
            large = ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {BODY_LIMIT}", {})
            return self._json(large.status(), 413)
        except Cut:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path in HEALTH:
            return web.Response(text="ok")
        if request.path.startswith(CONTROL):
            return self._json(await self._control.do(request.method, request.path.removeprefix(CONTROL), request))
        page = discovery.page(request.path)
        if page is not None:
            return self._json(page)
        user = self._access.user(request.headers.get("Authorization", ""))
        route = routes.read(request.method, request.path, request.query)
        # A namespace counts as being in itself, so that a Role in it may allow to read it.
        where = route.name if route.resource.kind == "Namespace" else route.namespace
        self._access.check(user, route.verb, route.resource, route.subresource, where, route.name)
        what = f"{route.resource.plural}/{route.subresource}" if route.subresource else route.resource.plural
        call = Call(route.verb, what, route.name, request.query.get("labelSelector", ""))
        self._faults.seen.append(call)
        await self._faults.apply("before", call)
        accept = request.headers.get("Accept", "")
        if route.subresource == "log":
            return await PodLog(self._cluster, self._kubelet, route, request.query).run(request)
        if route.verb == "watch":
            render = partial(tables.render, accept, route.resource, request.query)
            return await Watch(self._cluster, self._faults, route, request.query, render, self._bookmarks).run(request)
        body, kind = await self._body(request)
        answer = self._operations.do(route, request.query, body, kind, user)
        await self._faults.apply("after", call)
        headers = {"Warning": ", ".join(f'299 - "{text}"' for text in answer.warnings)} if answer.warnings else {}
        shown = answer.body
        if route.verb in ("get", "list"):
            shown = tables.render(accept, route.resource, request.query, shown)
        return self._json(shown, answer.code, headers)

    @staticmethod
    async def _body(request: web.Request) -> tuple[Any, str]:
        kind = request.content_type
        data = await request.read()
        if not data:
            return None, kind
        if "protobuf" in kind or "yaml" in kind:
            text = "the body of the request was in an unknown format - accepted media types include: application/json"
            raise ApiError(415, "UnsupportedMediaType", text, {})
        try:
            return json.loads(data), kind
        except ValueError as error:
            raise bad_request(f"error decoding the request: {error}") from None

    @staticmethod
    def _json(body: Object, code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
        return web.Response(
            body=json.dumps(body, separators=(",", ":")).encode(),
            status=code,
            headers=headers,
            content_type="application/json",
        )
