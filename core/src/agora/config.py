"""Settings: flags, `AGORA_*` variables, the nearest `agora.toml` upwards, the user's file, defaults; in this order."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr, ValidationError

from agora.errors import ConfigError, UnknownTarget
from agora.model.base import Model
from agora.model.spec import MAX_TIMEOUT

FILE_NAME = "agora.toml"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TargetConfig:
    """One configured target, as written: secrets are references, not values.

    Parameters:
        name: the target's name.
        provider: name of its provider.
        table: the provider's own keys.
        source: the file it stands in, for messages.
    """

    name: str
    provider: str
    table: Mapping[str, Any] = field(default_factory=dict)
    source: str = "default"


@dataclass(frozen=True)
class Settings:
    """The resolved configuration.

    Parameters:
        default_target: where a dispatch goes that names none.
        timeout_cap: highest timeout that a dispatch may ask for, in seconds; at most 86,400. A dispatch that asks for
            none gets the default of 7,200 s, or the cap where that is lower.
        actor: who asks, in every cause; the user's name by default.
        supervisor: start the background supervisor for what outlives its client.
        lost_after: seconds without an answer after which a dispatch ends `lost` (contract 2: one hour).
        abandon_after: seconds after which an unconfirmed end is not looked at any more (7 days).
        targets: by name; `local` is always there.
        problem: what is wrong with the configuration, where a command goes on without it.
    """

    default_target: str = "local"
    timeout_cap: int = MAX_TIMEOUT
    actor: str | None = None
    supervisor: bool = True
    lost_after: float = 3_600.0
    abandon_after: float = 604_800.0
    targets: Mapping[str, TargetConfig] = field(default_factory=lambda: {"local": TargetConfig("local", "local")})

    problem: str | None = None

    def require(self) -> None:
        """Make sure that the configuration could be read.

        Raises:
            ConfigError: it could not; says why.
        """
        if self.problem is not None:
            raise ConfigError(self.problem)

    def target(self, name: str | None) -> TargetConfig:
        """Return a configured target.

        Raises:
            UnknownTarget: none of that name is configured.
            ConfigError: the configuration could not be read.
        """
        self.require()
        wanted = name or self.default_target
        if wanted not in self.targets:
            known = ", ".join(sorted(self.targets))
            raise UnknownTarget(
                f"no target {wanted!r} is configured (there are: {known}); add [targets.{wanted}] to {FILE_NAME}"
            )
        return self.targets[wanted]


_TOP_LEVEL = {
    "default_target": str,
    "timeout_cap": int,
    "actor": str,
    "supervisor": bool,
    "lost_after": float,
    "abandon_after": float,
}
_VARIABLES = {
    "AGORA_TARGET": "default_target",
    "AGORA_TIMEOUT_CAP": "timeout_cap",
    "AGORA_ACTOR": "actor",
    "AGORA_SUPERVISOR": "supervisor",
    "AGORA_LOST_AFTER": "lost_after",
    "AGORA_ABANDON_AFTER": "abandon_after",
}


def load_settings(flags: Mapping[str, Any] | None = None, *, directory: Path | None = None) -> Settings:
    """Read the configuration.

    Parameters:
        flags: values from the command line, by the names of `Settings`; None values are ignored.
        directory: where to look upwards for `agora.toml`; the working directory by default.
    Raises:
        ConfigError: a file cannot be read, or a key or value is wrong; names the key and the file.
    """
    settings = Settings()
    for path in reversed(_files(directory or Path.cwd())):
        settings = _merged(settings, _read(path), str(path))
    for variable, key in _VARIABLES.items():
        if text := os.environ.get(variable):
            settings = _with(settings, key, _from_text(text, key, variable), variable)
    for key, value in (flags or {}).items():
        if value is not None:
            settings = _with(settings, key, value, f"flag {key}")
    return settings


def settings_or_problem() -> Settings:
    """Read the configuration, or tell in the settings why it cannot be read.

    What runs was resolved when it was dispatched: a file that is wrong must not keep anybody from stopping it.
    """
    try:
        return load_settings()
    except ConfigError as error:
        logger.warning("the configuration is left out: %s", error)
        return Settings(problem=str(error))


def _files(directory: Path) -> list[Path]:
    """The files there are, highest first: `AGORA_CONFIG` or the nearest upwards, then the user's."""
    found = []
    if chosen := os.environ.get("AGORA_CONFIG"):
        found.append(Path(chosen))
    else:
        found += [path for folder in (directory, *directory.parents) if (path := folder / FILE_NAME).is_file()][:1]
    from platformdirs import user_config_path

    user = user_config_path("agora", appauthor=False) / FILE_NAME
    return [*found, user] if user.is_file() else found


def _read(path: Path) -> dict[str, Any]:
    import tomllib  # most commands find no file

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _merged(settings: Settings, data: Mapping[str, Any], source: str) -> Settings:
    targets = dict(settings.targets)
    for key, value in data.items():
        if key == "targets":
            if not isinstance(value, dict):
                raise ConfigError(f"targets in {source} must be tables: [targets.NAME]")
            targets.update({name: _target(name, table, source) for name, table in value.items()})
        else:
            settings = _with(settings, key, value, source)
    return replace(settings, targets=targets)


def _target(name: str, table: Any, source: str) -> TargetConfig:
    if not isinstance(table, dict) or not isinstance(table.get("provider"), str):
        raise ConfigError(f'targets.{name} in {source} needs a provider: provider = "local"')
    own = {key: value for key, value in table.items() if key != "provider"}
    return TargetConfig(name, table["provider"], own, source)


def _with(settings: Settings, key: str, value: Any, source: str) -> Settings:
    kind = _TOP_LEVEL.get(key)
    if kind is None:
        raise ConfigError(f"unknown key {key!r} in {source}; known: {', '.join([*_TOP_LEVEL, 'targets'])}")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise ConfigError(f"{key} in {source} must be of type {kind.__name__}")
    number: Any = value
    if key == "timeout_cap" and not 1 <= number <= MAX_TIMEOUT:
        raise ConfigError(f"timeout_cap in {source} must be 1 to {MAX_TIMEOUT} seconds")
    if kind is float and number <= 0:
        raise ConfigError(f"{key} in {source} must be above 0 seconds")
    changed: dict[str, Any] = {key: value}
    return replace(settings, **changed)


def _from_text(text: str, key: str, source: str) -> Any:
    kind = _TOP_LEVEL[key]
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
            return text.lower() in ("1", "true", "yes", "on")
        raise ConfigError(f"{source} must be true or false")
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{source} must be of type {kind.__name__}") from None


def validate_target(target: TargetConfig, model: type[Model]) -> Model:
    """Validate a target's table with its provider's model; secrets are resolved from their references.

    Raises:
        ConfigError: names the full key and the file.
    """
    if hidden := _nested_secret(model):
        raise ConfigError(f"provider {target.provider!r} has a secret below the top level of its model: {hidden}")
    table = {
        key: _resolved(value, f"targets.{target.name}.{key} in {target.source}") if _secret(model, key) else value
        for key, value in target.table.items()
    }
    try:
        return model.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(["targets", target.name, *(str(part) for part in first["loc"])])
        known = ", ".join(model.model_fields)
        hint = f"; known keys: {known or 'none'}" if first["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{key} in {target.source}: {first['msg']}{hint}") from None


def _secret(model: type[Model], key: str) -> bool:
    known = model.model_fields.get(key)
    return known is not None and SecretStr.__name__ in str(known.annotation)


def _nested_secret(model: type[Model], path: str = "") -> str | None:
    """Name a secret that no reference could stand for, since it would be stored with the rest of its table."""
    for name, known in model.model_fields.items():
        for kind in (known.annotation, *get_args(known.annotation)):
            if path and SecretStr.__name__ in str(kind):
                return f"{path}{name}"
            if (
                isinstance(kind, type)
                and issubclass(kind, Model)
                and (hidden := _nested_secret(kind, f"{path}{name}."))
            ):
                return hidden
    return None


def _resolved(value: Any, where: str) -> str:
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"env", "file"}:
        raise ConfigError(f'{where} is a secret: write {{env = "NAME"}} or {{file = "PATH"}}, never the value')
    (kind, name), *_ = value.items()
    if kind == "env":
        if (found := os.environ.get(str(name))) is None:
            raise ConfigError(f"{where}: the variable {name} is not set")
        return found
    path = Path(str(name)).expanduser()
    if not path.is_absolute():
        raise ConfigError(f"{where}: {name} must be absolute or begin with ~: every later command reads it too")
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: {name} is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{where}: {name} cannot be read: {error.strerror}") from error
