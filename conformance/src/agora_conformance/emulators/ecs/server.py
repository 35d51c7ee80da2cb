"""The HTTP face of the emulated services: one endpoint for all of them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Awaitable
from email.utils import formatdate

from aiohttp import web

from agora_conformance.emulators.ecs.access import Access
from agora_conformance.emulators.ecs.account import Account
from agora_conformance.emulators.ecs.api import Api
from agora_conformance.emulators.ecs.control import CONTROL, Control
from agora_conformance.emulators.ecs.errors import ApiError, Object
from agora_conformance.emulators.ecs.faults import Call, Cut, Faults
from agora_conformance.emulators.ecs.model import Misshapen
from agora_conformance.emulators.ecs.throttle import Throttle

#: Bytes of a request.
BODY_LIMIT = 2**20
JSON = "application/x-amz-json-1.1"


class Server:
    """Answers requests.

    Parameters:
        account: what they are about.
        api: carries them out.
        access: who may do what.
        faults: what goes wrong on purpose.
        throttle: the token buckets; None lets everything pass.
        control: what goes past the APIs.
    """

    def __init__(
        self, account: Account, api: Api, access: Access, faults: Faults, throttle: Throttle | None, control: Control
    ) -> None:
        self._account, self._api, self._access, self._faults = account, api, access, faults
        self._throttle, self._control = throttle, control

    def app(self) -> web.Application:
        """Return the application."""
        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ApiError as error:
            return self._json(error.body(), error.status, query=error.query)
        except web.HTTPRequestEntityTooLarge:
            return self._json(ApiError("RequestEntityTooLarge", "Request is too large").body(), 413)
        except Cut:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith(CONTROL):
            looked = await self._control.do(request.method, request.path.removeprefix(CONTROL), request)
            return self._json(looked, content="application/json")
        service, action, handler = self._api.find(request.headers.get("X-Amz-Target", ""))
        if request.content_type != service.content:
            raise ApiError("SerializationException", f"the content type has to be {service.content}")
        body = await self._body(request)
        call = Call(service.name, action, body, time.time(), request.headers.get("User-Agent", ""))
        self._faults.calls.append(call)
        await self._faults.apply("before", call)
        self._access.check_key(request.headers.get("Authorization", ""))
        body = service.check(action, body)
        self._access.check(f"{service.name}:{action}", body)
        if self._throttle is not None and not self._throttle.admits(service.name, action, body.get("count", 1)):
            raise ApiError("ThrottlingException", "Rate exceeded")
        try:
            found = handler(body)
            answer = service.fit(action, await found if isinstance(found, Awaitable) else found)
        except ApiError:
            raise
        except (Misshapen, LookupError, TypeError, ValueError, AttributeError) as error:
            self._account.failed(error)
            raise ApiError("ServerException", "the emulator failed", 500) from error
        await self._faults.apply("after", call)
        return self._json(answer, content=service.content)

    @staticmethod
    async def _body(request: web.Request) -> Object:
        data = await request.read()
        try:
            body = json.loads(data or b"{}")
        except ValueError:
            raise ApiError("SerializationException", "the request is no JSON") from None
        if not isinstance(body, dict):
            raise ApiError("SerializationException", "Start of structure or map found where not expected.")
        return body

    def _json(self, body: Object, code: int = 200, content: str = JSON, query: str = "") -> web.Response:
        headers = {
            "x-amzn-RequestId": str(uuid.uuid4()),
            "Date": formatdate(self._account.clock.now(), usegmt=True),
            "Content-Type": content,
        }
        if query:
            headers["x-amzn-query-error"] = query
        return web.Response(body=json.dumps(body, separators=(",", ":")).encode(), status=code, headers=headers)
