"""What the tests of whole programs share: where a workload runs."""

from pathlib import Path
from typing import Any

import pytest

TARGETS = [
    pytest.param("local", marks=pytest.mark.backend("local")),
    pytest.param("docker", marks=pytest.mark.backend("docker")),
]


@pytest.fixture
def anyio_backend() -> str:
    """Use what the client runs on."""
    return "asyncio"


@pytest.fixture(params=TARGETS)
def where(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Say where a workload runs, and configure it."""
    monkeypatch.chdir(tmp_path)
    if request.param == "local":
        return {"target": "local"}
    from agora_docker.conformance import target

    image = target().probe_spec("", [])["image"]
    (tmp_path / "agora.toml").write_text('[targets.docker]\nprovider = "docker"\npull = "never"\n')
    return {"target": "docker", "image": image}
