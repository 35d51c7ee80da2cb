"""Inline secrets: one variable a dispatch, read by its task alone, shown nowhere, and removed after the end."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora.errors import DispatchConflict, InvalidRequest, PermissionDenied, StopRequested, SubmitRefused, Unreachable
from agora.model.ids import new_dispatch_id
from agora.model.record import State
from agora.model.spec import Spec
from agora_conformance.emulators.nomad import NomadEmulator, Timing
from agora_nomad import PROVIDER, exact, names, policy
from agora_nomad.api import Api
from agora_nomad.connect import connect
from nomad_harness import STUBBORN, Hands

pytestmark = pytest.mark.backend("nomad")

HIDDEN = "s3cret-value-that-nobody-shows"
TEXTS = [
    *(
        "$HOME",
        "${NOMAD_JOB_ID}",
        "$${X}",
        "${X:-y}",
        "$(X)",
        "$$",
        "%{if}",
        "%%{",
        "{{x}}",
        '{{env "HOME"}}',
        "{{end}}",
    ),
    *("a\n\tb\\n", "\r\b\f\x01\x7f", "\"q\" 's' `b`", "<&>\u2028", "", " x ", "-n", "#no", "=", "\U0001f600é"),
]
SHOW = 'i=0; for a; do i=$((i+1)); eval "v=\\$V$i"; printf "[%s]" "$v"; done'


def variables(hands: Hands) -> list[str]:
    """Return the paths of all variables on the cluster."""
    return [one["Path"] for one in hands.api.select("vars")]


def mine(hands: Hands, id: str) -> bool:
    """Whether the cluster holds secrets of a dispatch."""
    return names.secrets_path(id) in variables(hands)


# -- on their way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["raw_exec", "exec", "docker"])
def test_secrets_arrive_exactly(hands: Hands, driver: str) -> None:
    handle = hands.start(
        command=("/bin/sh", "-c", SHOW, "probe", *map(str, range(len(TEXTS)))),
        secrets={f"V{number}": text for number, text in enumerate(TEXTS, 1)},
        env={"OTHER": "x"},
        options={"driver": driver},
    )
    assert hands.end(handle).exit_code == 0
    assert hands.output(handle).decode() == "".join(f"[{text}]" for text in TEXTS)


def test_a_secret_shows_nowhere_but_in_its_variable(hands: Hands, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    handle = hands.start('echo "${#TOKEN}"; ' + STUBBORN, secrets={"TOKEN": HIDDEN}, grace=2)
    hands.ready(handle)
    hands.stop(handle, grace=2)
    hands.end(handle)
    assert hands.output(handle).startswith(str(len(HIDDEN)).encode())
    assert hands.api.variable(names.secrets_path(handle.id))["Items"] == {  # type: ignore[index]
        "environment": f'TOKEN="{HIDDEN}"\n',
        "installation": hands.installation,
    }
    job = names.job_id(handle.id)
    shown = {
        "job": hands.api.job(job),
        "versions": hands.api.call("get", "job", job, "versions"),
        "allocations": hands.allocations(handle),
        "allocation": hands.api._connection.requester("allocation")
        .request(hands.allocation(handle), method="get")
        .json(),
        "evaluations": hands.api.evaluations(job),
        "remarks": hands.api.call("get", "job", job, "scale"),
        "list": hands.api.select("vars"),
        "handle": handle.model_dump_json(),
        "observation": hands.observe(handle).model_dump_json(),
        "owned": [one.model_dump_json() for one in hands.provider.list_owned(hands.installation)],
        "requests": [str(one) for one in hands.emulator.faults.requests()],
        "logs": caplog.text,
    }
    assert [where for where, what in shown.items() if HIDDEN in json.dumps(what, default=str)] == []


def test_the_file_is_for_nobody_else(hands: Hands) -> None:
    script = 'ls -l "$NOMAD_SECRETS_DIR" | while read mode a b c d e f g name; do echo "$mode $name"; done'
    handle = hands.start(script, secrets={"TOKEN": HIDDEN})
    hands.end(handle)
    assert b"-r-------- agora-secrets.env\n" in hands.output(handle)


def test_a_helper_task_gets_none_and_cannot_change_the_template(hands: Hands) -> None:
    patch = {"TaskGroups": [{"Name": "main", "Tasks": [{"Name": "main", "Templates": [
        {"EmbeddedTmpl": "MORE=1\n", "DestPath": "local/more.env", "Envvars": True}
    ]}]}]}  # fmt: skip
    handle = hands.start('echo "$TOKEN $MORE"', secrets={"TOKEN": "x"}, options={"job": patch})
    assert hands.end(handle).exit_code == 0
    assert hands.output(handle) == b"x 1\n"
    assert names.secrets_path(handle.id).endswith("/main/main"), "the path of that task, not of its job"


# -- before the start --------------------------------------------------------------------------------------------


def test_what_no_variable_takes_is_refused_before_anything_starts(hands: Hands) -> None:
    def refusal(secrets: dict[str, str]) -> str:
        with pytest.raises(InvalidRequest) as refused:
            hands.provider.check(Spec(command=("a",), secrets=secrets))
        return str(refused.value)

    assert "ASCII letters" in refusal({"odd.name": HIDDEN})
    fits = exact.MAX_SECRETS - len('A=""\n')
    assert "65024 bytes" in refusal({"A": "x" * (fits + 1)})
    assert "65024 bytes" in refusal({"A": "é" * (fits // 6 + 1)})
    told = refusal({"A": HIDDEN * 3000})
    assert HIDDEN not in told
    assert hands.jobs() == []
    handle = hands.start("echo ${#A}", secrets={"A": "x" * fits})
    assert hands.end(handle).exit_code == 0
    assert hands.output(handle) == b"%d\n" % fits


def test_the_variable_is_there_before_the_job(hands: Hands) -> None:
    before = len(hands.emulator.faults.requests())
    hands.start("exit 0", secrets={"TOKEN": HIDDEN})
    asked = [one.operation for one in hands.emulator.faults.requests()[before:]]
    assert asked.index("variable/write") < asked.index("register")


def test_without_the_right_nothing_is_started_and_the_right_is_named(tmp_path: Path) -> None:
    with NomadEmulator(acl=True, timing=Timing()) as emulator:
        bare = "".join(policy.text().partition("  # For secrets")[0]) + "}\n"
        (tmp_path / "token").write_text(emulator.token(bare), encoding="utf-8")
        hands = Hands(emulator, tmp_path, token_file=tmp_path / "token")
        id = new_dispatch_id()
        with pytest.raises(PermissionDenied, match="right to write variables at nomad/jobs/agora-"):
            hands.start("exit 0", id=id, secrets={"TOKEN": HIDDEN})
        assert hands.jobs() == []
        hands.provider.remove_secrets(id)  # nobody has to try that for days
        # Everything else needs no such right.
        handle = hands.start("exit 0")
        assert hands.end(handle).exit_code == 0
        assert [one.handle.id for one in hands.provider.list_owned(hands.installation)] == [handle.id]
        hands.provider.release(handle)
        hands.provider.close()


def test_a_refused_variable_repeats_no_value(hands: Hands) -> None:
    hands.emulator.faults.fail(None, operation="variable/write", code=400, text=f"cannot read {HIDDEN}")
    with pytest.raises(SubmitRefused, match=r"refused \(400\)") as refused:
        hands.start("exit 0", secrets={"TOKEN": HIDDEN})
    assert refused.value.reason == "secrets_refused"
    hands.emulator.faults.clear()
    hands.emulator.faults.fail(None, operation="variable/write", code=500, text=f"something new {HIDDEN}")
    with pytest.raises(Exception, match="500") as unsaid:
        hands.start("exit 0", secrets={"TOKEN": HIDDEN})
    for error in (refused.value, unsaid.value):
        chain: BaseException | None = error
        while chain is not None:
            assert HIDDEN not in str(chain)
            chain = chain.__cause__
    assert not isinstance(unsaid.value, SubmitRefused)
    assert hands.jobs() == []


def test_what_an_earlier_attempt_left_is_written_again(hands: Hands) -> None:
    id = new_dispatch_id()
    hands.api.write_variable(names.secrets_path(id), {"environment": 'TOKEN="old"\n', "installation": "x"}, 0)
    handle = hands.start('echo "$TOKEN"', id=id, secrets={"TOKEN": "new"})
    hands.end(handle)
    assert hands.output(handle) == b"new\n"


def test_an_answer_to_the_write_that_was_lost_is_no_conflict(hands: Hands) -> None:
    hands.provider.identity()
    hands.emulator.faults.cut(1, after=True, operation="variable/write")
    handle = hands.start('echo "$TOKEN"', secrets={"TOKEN": "x"})
    assert hands.end(handle).exit_code == 0
    assert hands.output(handle) == b"x\n"


def test_a_job_that_is_on_record_keeps_its_secrets(hands: Hands) -> None:
    handle = hands.start('echo "$TOKEN"', secrets={"TOKEN": "first"})
    hands.end(handle)
    hands.provider.remove_secrets(handle.id)
    again = hands.start('echo "$TOKEN"', id=handle.id, secrets={"TOKEN": "second"})
    assert again.data == handle.data
    assert not mine(hands, handle.id), "nothing is left behind for what has ended"
    with pytest.raises(DispatchConflict):
        hands.start("exit 9", id=handle.id, secrets={"TOKEN": "third"})
    assert not mine(hands, handle.id)


def test_twenty_at_once_start_one_with_its_secrets(hands: Hands) -> None:
    id, found = new_dispatch_id(), []
    spec = {"script": 'echo "$TOKEN"', "id": id, "secrets": {"TOKEN": "x"}}
    threads = [threading.Thread(target=lambda: found.append(hands.start(**spec))) for _ in range(20)]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert len(found) == 20
    assert len({json.dumps(one.data, sort_keys=True) for one in found}) == 1
    assert hands.end(found[0]).exit_code == 0
    assert hands.output(found[0]) == b"x\n"


# -- removed -----------------------------------------------------------------------------------------------------


def test_they_are_removed_by_the_id_alone_again_and_again(hands: Hands) -> None:
    handle = hands.start("exit 0", secrets={"TOKEN": HIDDEN})
    hands.end(handle)
    assert mine(hands, handle.id)
    for _ in range(2):
        hands.provider.remove_secrets(handle.id)
        assert not mine(hands, handle.id)
    assert hands.job(handle) is not None, "the fence stays"
    hands.provider.remove_secrets(new_dispatch_id())


def test_another_installations_stay(hands: Hands, tmp_path: Path) -> None:
    other = Hands(hands.emulator, tmp_path / "other", "another")
    handle = hands.start("exit 0", secrets={"TOKEN": HIDDEN})
    hands.end(handle)
    other.provider.remove_secrets(handle.id)
    assert mine(hands, handle.id)
    assert other.provider.list_owned("another") == []
    other.provider.close()


def test_a_removal_that_is_not_answered_is_no_removal(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agora_nomad.api.CALL_SECONDS", 0.5)
    handle = hands.start("exit 0", secrets={"TOKEN": HIDDEN})
    hands.end(handle)
    hands.emulator.faults.fail(None, operation="variable/delete", code=500, text="No cluster leader")
    with pytest.raises(Unreachable, match="No cluster leader"):
        hands.provider.remove_secrets(handle.id)
    hands.emulator.faults.clear()
    hands.provider.remove_secrets(handle.id)
    assert not mine(hands, handle.id)


def test_a_removal_without_the_right_is_no_removal(tmp_path: Path) -> None:
    with NomadEmulator(acl=True) as emulator:
        (tmp_path / "token").write_text(emulator.token(policy.text()), encoding="utf-8")
        hands = Hands(emulator, tmp_path, token_file=tmp_path / "token")
        handle = hands.start("exit 0", secrets={"TOKEN": HIDDEN})
        hands.end(handle)
        (tmp_path / "poor").write_text(emulator.token(policy.text().replace('"destroy",', "")), encoding="utf-8")
        poor = Hands(emulator, tmp_path, token_file=tmp_path / "poor")
        with pytest.raises(PermissionDenied):
            poor.provider.remove_secrets(handle.id)
        emulator.collect_garbage()
        with pytest.raises(PermissionDenied):
            poor.provider.remove_secrets(handle.id)
        assert mine(hands, handle.id)
        for one in (poor, hands):
            one.provider.close()


def stopped_after(looks: int) -> Callable[[], None]:
    """Return a check that asks for a stop once it was asked often enough."""
    left = iter(range(looks))

    def check() -> None:
        if next(left, None) is None:
            raise StopRequested("somebody cancelled")

    return check


@pytest.mark.parametrize("looks", range(3))
def test_a_start_that_is_stopped_leaves_none(hands: Hands, looks: int) -> None:
    id = new_dispatch_id()
    spec = Spec(command=("/bin/true",), secrets={"TOKEN": HIDDEN}, grace=5)
    before = len(hands.emulator.faults.requests("variable/write"))
    with pytest.raises(StopRequested):
        hands.provider.dispatch(id, spec, stopped_after(looks))
    assert (len(hands.emulator.faults.requests("variable/write")) > before) is (looks == 2)
    assert hands.jobs() == []
    assert not mine(hands, id)


def test_a_stop_takes_none_from_a_job_that_was_made_meanwhile(hands: Hands) -> None:
    id = new_dispatch_id()
    spec = Spec(command=("/bin/sh", "-c", 'echo "$TOKEN"'), secrets={"TOKEN": "x"}, grace=5)
    asked = iter(range(2))

    def check() -> None:
        if next(asked, None) is None:
            hands.provider.dispatch(id, spec, lambda: None)
            raise StopRequested("somebody cancelled")

    with pytest.raises(StopRequested):
        hands.provider.dispatch(id, spec, check)
    found = hands.provider.find(id)
    assert found is not None
    assert hands.end(found).exit_code == 0
    assert hands.output(found) == b"x\n"


@pytest.mark.parametrize("options", [{"node_pool": "nope"}, {"job": {"Priority": 1000}}])
def test_a_refused_start_leaves_none(hands: Hands, options: dict[str, Any]) -> None:
    id = new_dispatch_id()
    with pytest.raises(SubmitRefused):
        hands.start("exit 0", id=id, secrets={"TOKEN": HIDDEN}, options=options)
    assert not mine(hands, id)


def test_what_may_have_been_registered_keeps_its_secrets(hands: Hands, caplog: pytest.LogCaptureFixture) -> None:
    id = new_dispatch_id()
    hands.provider.identity()
    hands.emulator.faults.fail(None, operation="register", code=500, text="something new", after=True)
    with pytest.raises(Exception, match="something new"):
        hands.start('echo "$TOKEN"', id=id, secrets={"TOKEN": "x"})
    hands.emulator.faults.clear()
    assert mine(hands, id)
    found = hands.provider.find(id)
    assert found is not None
    hands.end(found)
    assert hands.output(found) == b"x\n"
    # Secrets that cannot be removed at once are told, and the refusal stands.
    hands.emulator.faults.fail(None, operation="variable/delete", code=403, text="Permission denied")
    with pytest.raises(SubmitRefused):
        hands.start("exit 0", secrets={"TOKEN": HIDDEN}, options={"node_pool": "nope"})
    assert "still on the cluster" in caplog.text


def test_a_release_takes_them_along_also_where_the_job_is_collected(tmp_path: Path) -> None:
    with NomadEmulator() as emulator:
        hands = Hands(emulator, tmp_path)
        released, collected = (hands.start("exit 0", secrets={"TOKEN": HIDDEN}) for _ in range(2))
        for handle in (released, collected):
            hands.end(handle)
        hands.provider.release(released)
        assert not mine(hands, released.id)
        emulator.collect_garbage()
        assert mine(hands, collected.id)
        hands.provider.release(collected)
        assert variables(hands) == []
        hands.provider.close()


def test_a_lost_store_finds_what_it_has_left_without_a_job(hands: Hands, tmp_path: Path) -> None:
    left, theirs = new_dispatch_id(), new_dispatch_id()
    for id, whose in ((left, hands.installation), (theirs, "another")):
        hands.api.write_variable(names.secrets_path(id), {"environment": "", "installation": whose}, 0)
    hands.api.write_variable("nomad/jobs/agora-by-hand", {"a": "b"}, 0)
    live = hands.start(STUBBORN, grace=2, secrets={"TOKEN": HIDDEN})
    hands.running(live)
    owned = {one.handle.id: one for one in hands.provider.list_owned(hands.installation)}
    assert set(owned) == {left, live.id}
    assert (owned[left].ended, owned[live.id].ended) == (True, False)
    hands.provider.release(owned[left].handle)
    assert not mine(hands, left)
    assert mine(hands, theirs)
    assert mine(hands, live.id)
    # A named lost installation's are taken for it, with a job and without.
    lost = Hands(hands.emulator, tmp_path / "lost", "another")
    ended = lost.start("exit 0", secrets={"TOKEN": HIDDEN})
    lost.end(ended)
    lost.provider.close()
    for other in hands.provider.list_owned("another"):
        hands.provider.release(other.handle)
    assert not mine(hands, theirs)
    assert not mine(hands, ended.id)
    assert "nomad/jobs/agora-by-hand" in variables(hands)
    hands.api.remove_variable("nomad/jobs/agora-by-hand")


# -- with the engine ---------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with NomadEmulator() as emulator:
        config = TargetConfig("c", "nomad", {"address": emulator.url, "driver": "raw_exec"}, "a test")
        yield Settings(default_target="c", targets={"c": config}, supervisor=False)


def api_of(settings: Settings) -> Api:
    """Return a way to the cluster beside the engine's."""
    config: Any = PROVIDER.config_model(**settings.targets["c"].table)
    return Api(connect("a test", config))


@pytest.mark.anyio
async def test_after_the_end_the_engine_has_them_removed(settings: Settings, tmp_path: Path) -> None:
    async with AgoraClient(tmp_path, settings=settings, supervisor=False) as agora:
        handle = await agora.dispatch(
            command=("/bin/sh", "-c", "test ${#TOKEN} = 30"), secrets={"TOKEN": HIDDEN}, timeout=60
        )
        record = await agora.wait(handle.id, timeout=50)
        assert (record.state, record.exit_code) == (State.SUCCEEDED, 0)
    api = api_of(settings)
    async with AgoraClient(tmp_path, settings=settings, supervisor=False) as agora:
        with anyio.fail_after(30):
            while api.select("vars"):
                await agora.reconcile()
                await anyio.sleep(0.1)
    api.close()


@pytest.mark.anyio
async def test_a_reap_takes_what_no_record_knows(settings: Settings, tmp_path: Path) -> None:
    api, id = api_of(settings), new_dispatch_id()
    async with AgoraClient(tmp_path, settings=settings, supervisor=False) as agora:
        mark = (tmp_path / "installation").read_text(encoding="utf-8").strip()
        api.write_variable(names.secrets_path(id), {"environment": "", "installation": mark}, 0)
        (row,) = await agora.reap(dry_run=True)
        assert (row.id, row.action) == (id, "would remove")
        assert api.variable(names.secrets_path(id)) is not None
        (row,) = await agora.reap()
        assert (row.id, row.action) == (id, "removed")
    assert api.select("vars") == []
    api.close()
