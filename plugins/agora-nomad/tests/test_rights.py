"""The policy in the package is enough, and no more than enough."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.errors import AgoraError, PermissionDenied
from agora.model.ids import new_dispatch_id
from agora.model.observation import Phase, ReceiptKind
from agora.model.record import State
from agora_conformance.emulators.nomad import NomadEmulator, Timing
from agora_nomad import names, policy
from nomad_harness import STUBBORN, Hands, Sink, eventually, watching

pytestmark = pytest.mark.backend("nomad")

CAPABILITIES = re.findall(r'^ +"([a-z-]+)"', policy.text(), re.MULTILINE)


@pytest.fixture(scope="module")
def guarded() -> Iterator[NomadEmulator]:
    with NomadEmulator(acl=True, timing=Timing(stream_denied=0.5)) as emulator:
        yield emulator


def file_of(directory: Path, token: str) -> Path:
    path = directory / "token"
    path.write_text(token, encoding="utf-8")
    return path


@pytest.fixture
def restricted(guarded: NomadEmulator, tmp_path: Path) -> Iterator[Callable[[str], Hands]]:
    """Make the provider with the rights of a policy and no others; everything is removed afterwards."""
    made: list[Hands] = []

    def make(rules: str) -> Hands:
        hands = Hands(guarded, tmp_path, "restricted", token_file=file_of(tmp_path, guarded.token(rules)))
        made.append(hands)
        return hands

    yield make
    guarded.faults.clear()
    (tmp_path / "all").mkdir()
    Hands(guarded, tmp_path, "restricted", token_file=file_of(tmp_path / "all", guarded.management_token)).clean()
    for hands in made:
        hands.provider.close()


def without(capability: str) -> str:
    """Return the policy with one capability left out."""
    return "".join(line for line in policy.text().splitlines(keepends=True) if f'"{capability}"' not in line)


def whole_life(hands: Hands) -> None:
    """Do everything that the provider can do."""
    sink = Sink()
    with watching(hands, sink):
        eventually(lambda: sink.up or sink.error)
        handle = hands.start(STUBBORN, grace=20, secrets={"TOKEN": "x"})
        sink.live[handle.id] = handle
        hands.ready(handle)
        eventually(lambda: sink.last(handle).phase is Phase.RUNNING or sink.asked or sink.error)
        assert hands.stop(handle, grace=20).kind is ReceiptKind.SIGNALLED
        receipt = hands.provider.kill(handle)
        if receipt.degraded:
            raise PermissionDenied("degraded")
        hands.end(handle)
        assert hands.provider.find(handle.id) is not None
        left = new_dispatch_id()
        hands.api.write_variable(names.secrets_path(left), {"installation": hands.installation}, 0)
        owned = {item.handle.id: item.ended for item in hands.provider.list_owned(hands.installation)}
        assert owned == {handle.id: True, left: True}
        hands.provider.remove_secrets(left)
        hands.provider.remove_secrets(handle.id)
        hands.provider.release(handle)
    if sink.error is not None:
        raise sink.error


def test_the_policy_is_enough(restricted: Callable[[str], Hands]) -> None:
    whole_life(restricted(policy.text()))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_right_is_idle(restricted: Callable[[str], Hands], capability: str) -> None:
    with pytest.raises((PermissionDenied, AssertionError)):
        whole_life(restricted(without(capability)))


def test_the_policy_is_printed_for_a_namespace() -> None:
    assert [
        *("submit-job", "read-job", "list-jobs", "alloc-lifecycle", "read-logs"),
        *("write", "destroy", "list", "read"),
    ] == CAPABILITIES
    command = [sys.executable, "-m", "agora_nomad.policy", "work-1"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=50).stdout
    assert 'namespace "work-1" {' in printed
    assert printed.replace("work-1", "default") == policy.text()
    with pytest.raises(ValueError, match="not the name"):
        policy.text('x" { policy = "write" } namespace "y')


@pytest.mark.anyio
@pytest.mark.parametrize("force", [True, False])
async def test_without_the_right_to_signal_a_stop_is_degraded_and_never_refused(
    guarded: NomadEmulator, tmp_path: Path, force: bool
) -> None:
    token = guarded.token(without("alloc-lifecycle"))
    table = {"address": guarded.url, "driver": "raw_exec", "token_file": str(file_of(tmp_path, token))}
    settings = Settings(
        targets={"c": TargetConfig("c", "nomad", table, "a test")}, default_target="c", supervisor=False
    )
    async with AgoraClient(tmp_path, settings=settings, supervisor=False) as agora:
        handle = await agora.dispatch(command=("/bin/sh", "-c", STUBBORN), grace=2 if force else 4, timeout=60)
        async for chunk in agora.logs(handle.id, follow=True):
            if b"ready" in chunk.data:
                break
        before = len(guarded.faults.requests("signal"))
        result = await agora.cancel(handle.id, reason="a test", **({"force": True} if force else {"grace": 2}))
        assert result.delivered
        record = await agora.wait(handle.id, timeout=50)
        assert record.state is State.CANCELLED
        assert record.confirmed is True
        assert "force" in record.degraded or "grace" in record.degraded
        # It is not tried again and again.
        assert len(guarded.faults.requests("signal")) - before <= 2


def test_no_token_and_an_unknown_one_are_refused_and_end_nothing(guarded: NomadEmulator, tmp_path: Path) -> None:
    full = Hands(guarded, tmp_path, "i", token_file=file_of(tmp_path, guarded.management_token))
    handle = full.start()
    full.ready(handle)
    (tmp_path / "other").mkdir()
    for token in ("", "malformed", "00000000-0000-0000-0000-000000000000"):
        poor = Hands(guarded, tmp_path, "i", token_file=file_of(tmp_path / "other", token))
        for call in (poor.observe, poor.stop, poor.provider.kill, poor.output):
            with pytest.raises(PermissionDenied, match="denied"):
                call(handle)
        with pytest.raises(AgoraError, match="denied"):
            poor.provider.watch(Sink())
        poor.provider.close()
    assert full.observe(handle).phase is Phase.RUNNING
    full.clean()
