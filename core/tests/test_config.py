"""Settings: which place wins, what is refused and how it is named, and where secrets never turn up."""

from pathlib import Path
from typing import Any

import pytest
from agora.config import TargetConfig, load_settings, validate_target
from agora.errors import ConfigError, UnknownTarget
from agora.model.base import Model
from pydantic import Field, SecretStr, field_validator


class Config(Model):
    """A provider's configuration."""

    endpoint: str = "http://here"
    retries: int = Field(default=3, ge=0)
    token: SecretStr | None = None


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory two levels below an agora.toml."""
    inner = tmp_path / "project" / "a" / "b"
    inner.mkdir(parents=True)
    return inner


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    """Where the user's own file stands."""
    return tmp_path / "xdg-config" / "agora" / "agora.toml"


def test_a_target_local_exists_without_any_configuration(project: Path) -> None:
    settings = load_settings(directory=project)
    assert settings.target(None) == TargetConfig("local", "local", {}, "default")
    assert (settings.timeout_cap, settings.lost_after, settings.supervisor) == (86_400, 3_600.0, True)


def test_flags_come_before_variables_before_the_nearest_file_before_the_users(
    project: Path, user_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(user_file, 'actor = "user"\ntimeout_cap = 1000\nlost_after = 60\nsupervisor = false\n')
    write(project.parents[1] / "agora.toml", 'actor = "far"\ntimeout_cap = 9\n')
    nearest = write(project.parent / "agora.toml", 'actor = "near"\ntimeout_cap = 2000\n')
    monkeypatch.setenv("AGORA_TIMEOUT_CAP", "3000")
    settings = load_settings({"timeout_cap": 4000, "actor": None}, directory=project)
    assert settings.timeout_cap == 4000, "flag"
    settings = load_settings(directory=project)
    assert settings.timeout_cap == 3000, "variable"
    assert settings.actor == "near", "the nearest file alone, not those above it"
    assert settings.lost_after == 60.0, "the user's file"
    assert settings.abandon_after == 604_800.0, "default"
    assert settings.supervisor is False
    monkeypatch.setenv("AGORA_SUPERVISOR", "yes")
    assert load_settings(directory=project).supervisor is True
    nearest.unlink()
    assert load_settings(directory=project).actor == "far"
    chosen = write(project / "chosen.toml", 'actor = "chosen"\n')
    monkeypatch.setenv("AGORA_CONFIG", str(chosen))
    assert load_settings(directory=project).actor == "chosen"


def test_a_target_is_replaced_whole_and_never_merged(project: Path, user_file: Path) -> None:
    write(user_file, '[targets.a]\nprovider = "docker"\nhost = "one"\ntls = true\n[targets.b]\nprovider = "k8s"\n')
    near = write(project / "agora.toml", 'default_target = "a"\n[targets.a]\nprovider = "docker"\nhost = "two"\n')
    settings = load_settings(directory=project)
    assert settings.target(None) == TargetConfig("a", "docker", {"host": "two"}, str(near))
    assert settings.target("b") == TargetConfig("b", "k8s", {}, str(user_file))
    assert sorted(settings.targets) == ["a", "b", "local"]
    write(project / "agora.toml", '[targets.local]\nprovider = "docker"\n')
    assert load_settings(directory=project).target("local").provider == "docker"


def test_an_unknown_target_is_named_with_those_that_there_are(project: Path) -> None:
    with pytest.raises(UnknownTarget, match=r"no target 'prod' .*there are: local.*\[targets\.prod\]"):
        load_settings(directory=project).target("prod")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("colour = 1", "unknown key 'colour' in {file}"),
        ('timeout_cap = "long"', "timeout_cap in {file} must be of type int"),
        ("timeout_cap = true", "timeout_cap in {file} must be of type int"),
        ("timeout_cap = 0", "timeout_cap in {file} must be 1 to 86400"),
        ("timeout_cap = 86401", "timeout_cap in {file} must be 1 to 86400"),
        ("lost_after = -1", "lost_after in {file} must be above 0"),
        ("supervisor = 1", "supervisor in {file} must be of type bool"),
        ("targets = 3", "targets in {file} must be tables"),
        ("targets.x = 3", "targets.x in {file} needs a provider"),
        ("[targets.x]\nhost = 'a'", "targets.x in {file} needs a provider"),
        ("[targets.x]\nprovider = 5", "targets.x in {file} needs a provider"),
        ("not toml", "{file} cannot be read"),
        ("a = '\udcff'", "{file} cannot be read"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_by_key_and_file(project: Path, text: str, words: str) -> None:
    file = project / "agora.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as raised:
        load_settings(directory=project)
    assert words.format(file=file) in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "value"), [("AGORA_TIMEOUT_CAP", "soon"), ("AGORA_SUPERVISOR", "maybe"), ("AGORA_TIMEOUT_CAP", "0")]
)
def test_what_is_wrong_in_a_variable_is_named_by_the_variable(
    variable: str, value: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=variable):
        load_settings(directory=project)


def test_a_file_that_is_named_and_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGORA_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read"):
        load_settings()


def target(**table: Any) -> TargetConfig:
    return TargetConfig("prod", "acme", table, "/etc/agora.toml")


def test_a_targets_keys_are_validated_by_its_provider_and_named_in_full() -> None:
    assert validate_target(target(endpoint="x"), Config) == Config(endpoint="x")
    with pytest.raises(ConfigError, match=r"targets\.prod\.endpiont in /etc/agora\.toml: .*known keys: endpoint, retr"):
        validate_target(target(endpiont="x"), Config)
    with pytest.raises(ConfigError, match=r"targets\.prod\.retries in /etc/agora\.toml: .*greater than or equal to 0"):
        validate_target(target(retries=-1), Config)


def test_a_secret_is_given_by_reference_and_never_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_TOKEN", "s3cret-value")
    file = write(tmp_path / "token", "s3cret-value\n")
    for reference in ({"env": "THE_TOKEN"}, {"file": str(file)}):
        config = validate_target(target(token=reference), Config)
        assert isinstance(config, Config)
        assert config.token is not None
        assert config.token.get_secret_value() == "s3cret-value"
        assert "s3cret-value" not in repr(config)
    for value in ("s3cret-value", {"env": "A", "file": "B"}, {"value": "s3cret-value"}, ["s3cret-value"], None):
        with pytest.raises(ConfigError, match=r"targets\.prod\.token in /etc/agora\.toml is a secret") as raised:
            validate_target(target(token=value), Config)
        assert "s3cret-value" not in str(raised.value)


def test_a_secret_that_is_not_there_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NO_TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"token in /etc/agora\.toml: the variable NO_TOKEN is not set"):
        validate_target(target(token={"env": "NO_TOKEN"}), Config)
    with pytest.raises(ConfigError, match=r"token in /etc/agora\.toml: .*none cannot be read"):
        validate_target(target(token={"file": str(tmp_path / "none")}), Config)
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"token in /etc/agora\.toml: .*binary is not UTF-8 text"):
        validate_target(target(token={"file": str(tmp_path / "binary")}), Config)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"token in /etc/agora\.toml: binary must be absolute"):
        validate_target(target(token={"file": "binary"}), Config)


def test_an_error_of_another_key_never_repeats_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strict(Config):
        token: SecretStr = SecretStr("")

        @field_validator("token")
        @classmethod
        def _short(cls, value: SecretStr) -> SecretStr:
            if len(value.get_secret_value()) > 3:
                raise ValueError("is longer than 3 characters")
            return value

    monkeypatch.setenv("THE_TOKEN", "s3cret-value")
    with pytest.raises(ConfigError, match=r"targets\.prod\.token .*longer than 3") as raised:
        validate_target(target(token={"env": "THE_TOKEN"}), Strict)
    assert "s3cret-value" not in str(raised.value) + repr(raised.value.__cause__) + repr(raised.value.__context__)
