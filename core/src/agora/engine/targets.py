"""Targets in use: provider, validated configuration, hook chain; every call bounded and off the event loop."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
from pydantic import ValidationError

from agora import handover
from agora.config import Settings, TargetConfig, validate_target
from agora.engine.extensions import Extensions
from agora.errors import AgoraError, ConfigError, InvalidRequest, ProviderError, Unreachable
from agora.model.capabilities import Limits
from agora.model.record import Entry
from agora.model.spec import Spec
from agora.plugins import TargetHooks, load_provider
from agora.provider import Installation, ProviderInfo

logger = logging.getLogger(__name__)

#: An attempt to stop may take so long (contract 3), in seconds.
STOP_SECONDS = 10.0
LOOK_SECONDS = 10.0
CREATE_SECONDS = 8.0
#: A target that could not be made in time is not tried again for so long, in seconds.
STUCK_SECONDS = 30.0


class Target:
    """One target: calls its hooks in worker threads, at most `limits.concurrency` at a time.

    Parameters:
        config: as configured, or as stored with a dispatch.
        info: its provider.
        hooks: its hook chain.
    """

    def __init__(self, config: TargetConfig, info: ProviderInfo, hooks: TargetHooks) -> None:
        self.name = config.name
        self.config = config
        self.info = info
        self.hooks = hooks
        # Stops have places of their own: what hangs of the rest must not keep one from being sent.
        concurrency = info.limits.concurrency
        self._looks = anyio.CapacityLimiter(concurrency)
        self._submits = anyio.CapacityLimiter(concurrency)
        self._places = {hook: anyio.CapacityLimiter(concurrency) for hook in ("stop", "logs")}
        self._places["kill"] = self._places["stop"]

    @property
    def limits(self) -> Limits:
        """The provider's numbers."""
        return self.info.limits

    def has(self, capability: str) -> bool:
        """Whether the provider claims a capability."""
        return self.info.capabilities.has(capability)

    def implements(self, hook: str) -> bool:
        """Whether the provider has an optional hook."""
        return hook in self.hooks.hooks

    async def call(
        self, hook: str, *, seconds: float | None, then: Callable[[Any], Any] | None = None, **arguments: Any
    ) -> Any:
        """Call a hook in a worker thread.

        Parameters:
            hook: its name.
            seconds: how long it may take; no bound for a submit, whose claim is kept up meanwhile.
            then: what to do with its answer in the same thread, and return instead.
        Raises:
            Unreachable: no answer in time.
            AgoraError: what the provider or an extension raised; anything else is wrapped in `ProviderError`.
        """
        logger.debug("target %s: %s%s", self.name, hook, _about(arguments))
        limiter = self._places.get(hook, self._submits if seconds is None else self._looks)
        began = False

        def work() -> Any:
            nonlocal began
            began = True
            answer = self.hooks.call(hook, **arguments)
            return answer if then is None else then(answer)

        with anyio.move_on_after(seconds):
            try:
                return await anyio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
            except AgoraError:
                raise
            except Exception as error:
                words = f"{hook} on target {self.name!r} failed: {type(error).__name__}: {error}"
                raise ProviderError(words) from error
        words = f"target {self.name!r} gave no answer to {hook} within {seconds or 0:g} s"
        raise Unreachable(words, sent=began)

    def check_spec(self, spec: Spec) -> None:
        """Refuse what the declared limits rule out.

        Raises:
            InvalidRequest: names the field and the limit.
        """
        limits = self.info.limits
        if spec.grace < limits.grace_min or (limits.grace_max is not None and spec.grace > limits.grace_max):
            most = "" if limits.grace_max is None else f" to {limits.grace_max}"
            raise InvalidRequest(
                f"grace {spec.grace} s is outside what target {self.name!r} can do: {limits.grace_min}{most} s"
            )
        given = {name for name in ("image", "cwd", "command") if getattr(spec, name) is not None}
        given |= {f"resources.{name}" for name in ("cpu", "memory") if getattr(spec.resources, name) is not None}
        if refused := sorted(given & set(limits.refused_fields)):
            raise InvalidRequest(f"target {self.name!r} ({self.info.name}) cannot honour {', '.join(refused)}")
        if spec.secrets and not self.has("secrets"):
            raise InvalidRequest(f"target {self.name!r} ({self.info.name}) cannot pass secrets to a workload")
        self._check_policies(spec)
        try:
            self.info.options_model.model_validate(spec.options)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(["options", *(str(part) for part in first["loc"])])
            known = ", ".join(self.info.options_model.model_fields) or "none"
            raise InvalidRequest(f"{key}: {first['msg']}; options of {self.info.name}: {known}") from None

    def _check_policies(self, spec: Spec) -> None:
        """Refuse a policy that would cancel a workload for signs which nobody could have heard."""
        logs = self.has("logs") and self.implements("logs")
        whose = f"target {self.name!r} ({self.info.name})"
        if spec.silence_timeout is not None and not logs:
            raise InvalidRequest(f"silence_timeout: {whose} keeps no logs, so nobody could tell that it is silent")
        if spec.heartbeat_timeout is None or {"AGORA_WORKER_URL", "AGORA_WORKER_REDIS"} & {*spec.env, *spec.secrets}:
            return
        events = spec.env.get("AGORA_WORKER_EVENTS") or "stdout"
        if events == "none":
            raise InvalidRequest("heartbeat_timeout: AGORA_WORKER_EVENTS is none, so there are no heartbeats")
        if events in ("stdout", "stderr") and not logs:
            raise InvalidRequest(f"heartbeat_timeout: {whose} keeps no logs, so nobody could hear a heartbeat")
        if events not in ("stdout", "stderr") and not (self.limits.shares_files and events.startswith("/")):
            raise InvalidRequest(f"heartbeat_timeout: nobody here could read {events} of a workload on {whose}")


def _about(arguments: Mapping[str, Any]) -> str:
    """Name the dispatch that a hook is about; never a spec, which may hold secrets."""
    id = arguments.get("id") or getattr(arguments.get("handle"), "id", None)
    return f" for dispatch {id}" if id else ""


class Targets:
    """Every target that this process uses, each made once.

    Parameters:
        settings: the configuration.
        installation: what providers are told of the store.
        extensions: wrapped around every target.
    """

    def __init__(self, settings: Settings, installation: Installation, extensions: Extensions) -> None:
        self.settings = settings
        self._installation = installation
        self._extensions = extensions
        self._providers: dict[str, ProviderInfo] = {}
        self._made: dict[str, Target] = {}
        self._stuck: dict[str, float] = {}
        self._lock = anyio.Lock()

    async def configured(self, name: str | None) -> Target:
        """Return a target of the configuration.

        Raises:
            ConfigError: it is unknown, wrongly configured, or its provider is not installed.
        """
        return await self.get(self.settings.target(name))

    async def of(self, entry: Entry) -> Target:
        """Return the target that a dispatch was sent to, as it was resolved then.

        Raises:
            ConfigError: its provider is not installed here.
        """
        return await self.get(stored(entry))

    async def get(self, config: TargetConfig) -> Target:
        """Return a target, made at its first use.

        Raises:
            ConfigError: it cannot be made.
        """
        key = key_of(config)
        if (made := self._made.get(key)) is not None:
            return made
        async with self._lock:
            if key not in self._made:
                if anyio.current_time() < self._stuck.get(key, 0.0):
                    raise ConfigError(f"target {config.name!r} could not be made a moment ago")
                work = functools.partial(self._make, config)
                try:
                    with anyio.fail_after(CREATE_SECONDS):
                        made = await handover.made(work, _let_go)
                except TimeoutError as error:
                    self._stuck[key] = anyio.current_time() + STUCK_SECONDS
                    raise ConfigError(
                        f"target {config.name!r} could not be made within {CREATE_SECONDS:g} s"
                    ) from error
                self._made[key] = made
                # What is dispatched there is found again by what it remembers of it.
                self._made.setdefault(key_of(made.config), made)
            return self._made[key]

    def _make(self, config: TargetConfig) -> Target:
        info = self._providers[config.provider] = load_provider(config.provider)
        model = validate_target(config, info.config_model)
        try:
            plugin = info.create(config.name, model, self._installation)
            if info.surroundings is not None:
                config = replace(config, table={**config.table, **info.surroundings(config.name, model)})
        except AgoraError:
            raise
        except Exception as error:
            raise ConfigError(
                f"target {config.name!r} ({config.provider}) cannot be used: {type(error).__name__}: {error}"
            ) from error
        return Target(config, info, TargetHooks(config.name, plugin, self._extensions.load()))

    async def provider_of(self, entry: Entry) -> ProviderInfo:
        """Return the provider of a dispatch without making its target.

        Raises:
            ConfigError: it is not installed here.
        """
        if (info := self._providers.get(entry.provider)) is None:
            info = self._providers[entry.provider] = await anyio.to_thread.run_sync(load_provider, entry.provider)
        return info

    async def close(self) -> None:
        """Let every plugin go, each for at most 2 s."""
        for target in dict.fromkeys(self._made.values()):
            if target.implements("close"):
                try:
                    await target.call("close", seconds=2.0)
                except AgoraError:
                    continue


def _let_go(target: Target) -> None:
    if target.implements("close"):
        target.hooks.call("close")


def stored(entry: Entry) -> TargetConfig:
    """Return the target's configuration that is stored with a dispatch."""
    return TargetConfig(entry.target, entry.provider, entry.config, "the record of the dispatch")


def key_of(config: TargetConfig) -> str:
    """Tell targets apart: two configurations of one name are two targets."""
    table: Mapping[str, Any] = config.table
    return json.dumps([config.name, config.provider, table], sort_keys=True, default=str)
