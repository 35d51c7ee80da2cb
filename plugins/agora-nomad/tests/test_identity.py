"""Which cluster it is: a name that stays when keys change, and a proof before anything is called gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agora.errors import Unreachable
from agora.model.observation import Handle
from agora_nomad.identity import Identity


class Keys:
    """A cluster that shows some keys."""

    def __init__(self, *shown: str, namespace: str = "n", region: str | None = None) -> None:
        self.shown = list(shown)
        self.namespace = namespace
        self.region = region
        self.source = "a test"

    def keys(self) -> list[str]:
        return self.shown


def identity(keys: Keys, directory: Path) -> Identity:
    api: Any = keys
    return Identity(api, directory / "target" / "cluster.json")


def handle(where: Identity) -> Handle:
    return Handle(id="d", backend=where.backend(), data={"keys": where.keys})


def test_a_cluster_keeps_its_name_while_its_keys_change(tmp_path: Path) -> None:
    cluster = Keys("b", "c")
    first = identity(cluster, tmp_path)
    old = handle(first)
    assert old.backend == "nomad::n:b"
    cluster.shown = ["c", "a"]
    assert first.backend(fresh=True) == old.backend
    cluster.shown = ["a"]
    # Another process, which has never seen the first key.
    later = identity(cluster, tmp_path)
    assert later.backend() == old.backend
    assert later.keys == ["a", "b", "c"]
    later.prove(old)
    assert (tmp_path / "target").stat().st_mode & 0o077 == 0


def test_another_cluster_under_the_same_target_is_another(tmp_path: Path) -> None:
    old = handle(identity(Keys("a"), tmp_path))
    other = identity(Keys("z"), tmp_path)
    assert not other.is_here(old)
    with pytest.raises(Unreachable, match="is not a test") as refused:
        other.prove(old)
    assert refused.value.sent is False


@pytest.mark.parametrize("other", [Keys("a", namespace="m"), Keys("a", region="eu")])
def test_another_namespace_or_region_is_another(tmp_path: Path, other: Keys) -> None:
    assert not identity(other, tmp_path / "b").is_here(handle(identity(Keys("a"), tmp_path / "a")))


def test_another_machine_knows_a_handle_by_a_key_that_is_still_shown(tmp_path: Path) -> None:
    cluster = Keys("b", "c")
    old = handle(identity(cluster, tmp_path / "here"))
    cluster.shown = ["a", "c"]
    there = identity(cluster, tmp_path / "there")
    assert there.backend() != old.backend
    assert there.is_here(old)
    assert not there.is_here(old.model_copy(update={"backend": f"{old.backend}-another"}))
    cluster.shown = ["a"]
    assert not identity(cluster, tmp_path / "elsewhere").is_here(old)


def test_what_nothing_proves_is_never_gone(tmp_path: Path) -> None:
    bare = identity(Keys(), tmp_path)
    old = handle(bare)
    assert bare.is_here(old)
    with pytest.raises(Unreachable, match="nothing proves"):
        bare.prove(old)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"first": "x"}'])
def test_a_damaged_file_is_written_anew(tmp_path: Path, text: str) -> None:
    file = tmp_path / "target" / "cluster.json"
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    assert identity(Keys("a"), tmp_path).backend() == "nomad::n:a"
    assert json.loads(file.read_text(encoding="utf-8")) == {"first": "a", "keys": ["a"]}
