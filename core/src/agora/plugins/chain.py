"""The hook chain of one target: its provider, wrapped by the extensions, callable from worker threads."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Generator, Sequence
from types import SimpleNamespace
from typing import Any

import anyio.from_thread
import pluggy
from pluggy import PluginValidationError

from agora.errors import AgoraError, ProviderNotInstalled, Vetoed
from agora.hookspecs import PROJECT, REQUIRED_HOOKS, ExtensionHooks, ProviderHooks
from agora.model.cancel import CancelResult
from agora.model.events import Event

logger = logging.getLogger(__name__)

_MARK = f"{PROJECT}_impl"
_LISTENERS = ("on_event", "on_cancel")


class TargetHooks:
    """One plugin manager: a provider's plugin and the extensions.

    Parameters:
        target: name of the target, for messages.
        plugin: what the provider's `create` returned.
        extensions: objects with hook wrappers.
    Raises:
        ProviderNotInstalled: the plugin lacks a required hook, or has one that no hookspec knows.
    """

    def __init__(self, target: str, plugin: object, extensions: Sequence[object] = ()) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(ProviderHooks)
        try:
            self._manager.register(_adapted(plugin, _provider_hook), name="provider")
            self._manager.check_pending()
        except PluginValidationError as error:
            raise ProviderNotInstalled(f"the provider of target {target!r} is refused: {error}") from error
        self.hooks = frozenset(caller.name for caller in self._manager.get_hookcallers(self._provider) or ())
        if missing := [name for name in REQUIRED_HOOKS if name not in self.hooks]:
            raise ProviderNotInstalled(
                f"the provider of target {target!r} is refused: it does not implement {', '.join(missing)}"
            )
        for number, extension in enumerate(extensions):
            self._add(extension, f"extension-{number}")

    @property
    def _provider(self) -> Any:
        return self._manager.get_plugin("provider")

    def _add(self, extension: object, name: str) -> None:
        try:
            adapted = _adapted(extension, _extension_hook)
            for listener in _LISTENERS:
                vars(adapted).pop(listener, None)
            if not vars(adapted):
                return  # it only listens
            self._manager.register(adapted, name=name)
            self._manager.check_pending()
        except (PluginValidationError, ProviderNotInstalled) as error:
            logger.error("extension %r is left out: %s", extension, error)
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook; blocking, so only from a worker thread."""
        return getattr(self._manager.hook, hook)(**arguments)


class Listeners:
    """The extensions that hear events and answers to cancels, whatever becomes of a dispatch's target.

    Parameters:
        extensions: objects that may have an `on_event` or an `on_cancel`.
    """

    def __init__(self, extensions: Sequence[object] = ()) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(ExtensionHooks)
        for number, extension in enumerate(extensions):
            hooks = [
                name for name in _LISTENERS if isinstance(getattr(getattr(extension, name, None), _MARK, None), dict)
            ]
            if hooks:
                listener = SimpleNamespace(**{name: _listener(getattr(extension, name)) for name in hooks})
                try:
                    self._manager.register(listener, name=f"extension-{number}")
                except PluginValidationError as error:
                    logger.error("extension %r is left out: %s", extension, error)

    def __bool__(self) -> bool:
        return bool(self._manager.hook.on_event.get_hookimpls())

    @property
    def hear_answers(self) -> bool:
        """Whether any of them hears answers to cancels."""
        return bool(self._manager.hook.on_cancel.get_hookimpls())

    def tell(self, event: Event) -> None:
        """Hand an event to the extensions; blocking."""
        self._manager.hook.on_event(event=event)

    def answered(self, result: CancelResult) -> None:
        """Hand the answer to a cancel to the extensions; blocking."""
        self._manager.hook.on_cancel(result=result)


_Adapter = Callable[[str, Callable[..., Any], dict[str, Any]], Callable[..., Any]]


def _adapted(plugin: object, adapt: _Adapter) -> SimpleNamespace:
    """Copy the hook implementations of a plugin, each adapted; argument names stay as they are."""
    found = SimpleNamespace()
    for name in dir(plugin):
        options = getattr(inspect.getattr_static(plugin, name, None), _MARK, None)
        if isinstance(options, dict):
            setattr(found, name, adapt(name, getattr(plugin, name), options))
    return found


def _provider_hook(name: str, function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    if not inspect.iscoroutinefunction(function):
        return function

    @functools.wraps(function)
    def from_thread(*arguments: Any) -> Any:
        return anyio.from_thread.run(function, *arguments)

    return from_thread


def _extension_hook(name: str, function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    if name in _LISTENERS:
        return function
    if not options.get("wrapper"):
        raise ProviderNotInstalled(f"{name} of an extension must be a wrapper: @hookimpl(wrapper=True)")
    return _safe_wrapper(name, function)


def _listener(function: Callable[..., Any]) -> Callable[..., Any]:
    blocking = _provider_hook(function.__name__, function, {})

    @functools.wraps(function)
    def listener(*arguments: Any) -> None:
        try:
            blocking(*arguments)
        except Exception:
            logger.exception("an extension failed to hear an event")

    return listener


def _safe_wrapper(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a wrapper veto and measure, and keep its failures away from the dispatch."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Generator[None, Any, Any]:
        inner: Generator[None, Any, Any] | None = function(*arguments)
        try:
            next(inner)  # type: ignore[arg-type]
        except Vetoed:
            raise
        except Exception:
            logger.exception("an extension failed before %s and is skipped", name)
            inner = None
        try:
            result = yield
        except BaseException as error:
            _throw(name, inner, error)
            raise
        return _send(name, inner, result)

    return wrapper


def _send(name: str, inner: Generator[None, Any, Any] | None, result: Any) -> Any:
    """Show an extension the result; what it returns is ignored, since only the provider knows."""
    if inner is not None:
        try:
            inner.send(result)
        except StopIteration:
            pass
        except Exception:
            logger.exception("an extension failed after %s", name)
    return result


def _throw(name: str, inner: Generator[None, Any, Any] | None, error: BaseException) -> None:
    if inner is None:
        return
    try:
        inner.throw(error)
    except StopIteration:
        pass
    except BaseException as raised:
        if raised is not error and not isinstance(raised, AgoraError):
            logger.exception("an extension failed after %s", name)
