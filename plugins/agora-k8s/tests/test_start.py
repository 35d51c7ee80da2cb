"""How workloads start: once, as asked for, or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from agora.errors import DispatchConflict, PermissionDenied, StopRequested, SubmitRefused, Unreachable
from agora.model.ids import new_dispatch_id
from agora.model.observation import Handle, Phase
from agora.model.spec import Spec
from agora_conformance.emulators.k8s import K8sEmulator
from agora_k8s import api, names
from k8s_harness import GRACEFUL, Hands, eventually, never

pytestmark = pytest.mark.backend("k8s")

SHOW = "printf '%s' \"$TOKEN\" | od -A n -t x1; echo ready; sleep 60"


def test_twenty_dispatches_at_once_make_one_workload(hands: Hands) -> None:
    other = Hands(hands.emulator, hands.provider._tails._directory.parents[2], hands.installation)
    id = new_dispatch_id()
    handles: list[Handle] = []
    threads = [
        threading.Thread(target=lambda hand=hand: handles.append(hand.start(id=id))) for hand in (hands, other) * 10
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert len(handles) == 20
    assert len({handle.data["uid"] for handle in handles}) == 1
    hands.ready(handles[0])
    assert len(hands.pods(handles[0])) == 1
    other.provider.close()


def test_another_spec_or_installation_is_a_conflict(hands: Hands, tmp_path: Path) -> None:
    handle = hands.start()
    with pytest.raises(DispatchConflict, match="another spec"):
        hands.start("exit 9", id=handle.id)
    stranger = Hands(hands.emulator, tmp_path, "another-installation")
    with pytest.raises(DispatchConflict, match="does not belong"):
        stranger.start(id=handle.id)
    assert stranger.provider.find(handle.id) is None
    assert hands.provider.find(handle.id[:-1]) is None
    found = hands.provider.find(handle.id)
    assert found == handle
    assert [one.handle for one in hands.provider.list_owned(hands.installation)] == [handle]


@contextmanager
def impatient() -> Iterator[None]:
    """Send nothing a second time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "CALL_SECONDS", 0.0)
        yield


def test_a_connection_that_is_cut_is_made_anew(hands: Hands) -> None:
    hands.emulator.faults.cut(1, after=True, verb="create", resource="jobs")
    handle = hands.start()
    hands.ready(handle)
    assert len(hands.pods(handle)) == 1


def test_a_lost_answer_is_found_again(hands: Hands) -> None:
    id = new_dispatch_id()
    hands.emulator.faults.cut(1, after=True, verb="create", resource="jobs")
    with impatient(), pytest.raises(Unreachable) as caught:
        hands.start(id=id)
    assert caught.value.sent is True
    found = hands.provider.find(id)
    assert found is not None
    assert hands.start(id=id) == found
    assert len(eventually(lambda: hands.pods(found))) == 1


def test_a_new_job_that_is_not_shown_yet_is_not_absent(hands: Hands) -> None:
    hands.emulator.faults.hide_created(3)

    def old_enough() -> bool:  # the namespace of a new emulator is hidden too
        with suppress(Unreachable):
            return bool(hands.provider.identity())
        return False

    eventually(old_enough)
    handle = hands.start()
    assert hands.observe(handle).phase is Phase.PENDING
    with pytest.raises(Unreachable, match="does not show"):
        hands.stop(handle)
    hands.emulator.faults.hide_created(0)
    hands.ready(handle)


def test_server_errors_and_throttling_are_waited_out(hands: Hands) -> None:
    hands.emulator.faults.fail(2, verb="create", resource="jobs")
    hands.emulator.faults.throttle(1, retry_after=1, verb="list", resource="pods")
    handle = hands.start()
    hands.ready(handle)


def test_a_server_that_names_a_time_is_left_alone_for_so_long(hands: Hands) -> None:
    before = len(hands.emulator.faults.requests("list", "pods"))
    hands.emulator.faults.throttle(1, retry_after=1, verb="list", resource="pods")
    began = time.monotonic()
    hands.api.list("pods", "a=b")
    assert time.monotonic() - began >= 1
    assert len(hands.emulator.faults.requests("list", "pods")) - before == 2


def test_a_server_that_stays_busy_is_unreachable_in_time(hands: Hands) -> None:
    hands.emulator.faults.throttle(None, retry_after=30, verb="create", resource="jobs")
    with pytest.raises(Unreachable) as caught:
        hands.start()
    assert caught.value.sent is False, "a throttled request was not carried out"


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_a_stop_before_the_start_leaves_nothing(hands: Hands, allowed: int) -> None:
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks > allowed:
            raise StopRequested("a test")

    spec = Spec(command=("sh", "-c", GRACEFUL), secrets={"TOKEN": "hidden"})
    id = new_dispatch_id()
    with pytest.raises(StopRequested):
        hands.provider.dispatch(id, spec, check)
    selector = f"{names.DISPATCH}={id}"
    assert hands.api.list("jobs", selector)[0] == []
    eventually(lambda: not hands.api.list("secrets", selector)[0])
    assert hands.emulator.processes(selector) == []


def test_a_secret_arrives_unexpanded_and_goes_with_its_job(hands: Hands) -> None:
    handle = hands.start(SHOW, secrets={"TOKEN": "s3cret $(HOME) $$"})
    hands.ready(handle)
    assert bytes.fromhex(hands.output(handle).split(b"ready")[0].decode()) == b"s3cret $(HOME) $$"
    selector = f"{names.DISPATCH}={handle.id}"
    [secret] = hands.api.list("secrets", selector)[0]
    assert secret["metadata"]["ownerReferences"][0]["uid"] == handle.data["uid"]
    hands.stop(handle, grace=2)
    hands.end(handle)
    hands.provider.release(handle)
    eventually(lambda: not hands.api.list("secrets", selector)[0])


def test_a_secret_is_removed_after_the_end_while_the_job_stays(hands: Hands) -> None:
    handle = hands.start("exit 0", secrets={"TOKEN": "s3cret"})
    hands.end(handle)
    other = Hands(hands.emulator, hands.provider._tails._directory.parents[2])
    other.provider.remove_secrets(handle.id)
    other.provider.close()
    [secret] = hands.api.list("secrets", selector := f"{names.DISPATCH}={handle.id}")[0]
    assert secret["data"], "another installation's stays"
    for _ in range(2):
        hands.provider.remove_secrets(handle.id)
        assert hands.api.list("secrets", selector)[0] == []
    assert hands.api.get("jobs", names.object_name(handle.id)) is not None
    hands.provider.remove_secrets(new_dispatch_id())


def test_a_start_that_failed_half_way_is_finished_by_its_own_process(hands: Hands) -> None:
    id = new_dispatch_id()
    hands.emulator.faults.cut(1, verb="create", resource="secrets")
    with impatient(), pytest.raises(Unreachable):
        hands.start(SHOW, id=id, secrets={"TOKEN": "x"})
    assert hands.provider.find(id) is None, "this process may send it again"
    other = Hands(hands.emulator, hands.provider._tails._directory.parents[2], hands.installation)
    assert other.provider.find(id) is not None, "another one has to look after it"
    handle = hands.start(SHOW, id=id, secrets={"TOKEN": "x"})
    hands.ready(handle)
    assert len(hands.pods(handle)) == 1
    other.provider.close()


def test_what_fails_after_the_job_was_made_was_sent(hands: Hands) -> None:
    id = new_dispatch_id()
    hands.emulator.faults.throttle(1, verb="create", resource="secrets")  # which by itself was not carried out
    with impatient(), pytest.raises(Unreachable) as caught:
        hands.start(SHOW, id=id, secrets={"TOKEN": "x"})
    assert caught.value.sent is True
    assert hands.api.get("jobs", names.object_name(id)) is not None


def test_a_half_made_job_is_stopped_for_good(hands: Hands) -> None:
    id = new_dispatch_id()
    hands.emulator.faults.cut(1, verb="create", resource="secrets")
    with impatient(), pytest.raises(Unreachable):
        hands.start(SHOW, id=id, secrets={"TOKEN": "x"})
    other = Hands(hands.emulator, hands.provider._tails._directory.parents[2], hands.installation)
    handle = other.provider.find(id)
    assert handle is not None
    assert other.observe(handle).reason == "starting"
    other.stop(handle)
    assert other.end(handle).never_started
    with pytest.raises(StopRequested):
        hands.start(SHOW, id=id, secrets={"TOKEN": "x"})
    assert hands.processes(handle) == []
    other.provider.close()


def test_a_half_made_job_of_a_dead_process_is_given_up(hands: Hands) -> None:
    id = new_dispatch_id()
    hands.emulator.faults.skew(server=-120)  # it is made two minutes ago
    hands.emulator.faults.cut(1, verb="create", resource="secrets")
    with impatient(), pytest.raises(Unreachable):
        hands.start(SHOW, id=id, secrets={"TOKEN": "x"})
    other = Hands(hands.emulator, hands.provider._tails._directory.parents[2], hands.installation)
    handle = other.provider.find(id)
    assert handle is not None
    hands.emulator.faults.skew()
    seen = other.end(handle)
    assert (seen.never_started, seen.reason) == (True, "start_not_finished")
    with pytest.raises(SubmitRefused) as caught:
        hands.start(SHOW, id=id, secrets={"TOKEN": "x"})
    assert caught.value.reason == "start_not_finished"
    other.provider.close()


def test_a_stop_just_before_a_suspended_job_is_let_go_wins(hands: Hands) -> None:
    other = Hands(hands.emulator, hands.provider._tails._directory.parents[2], hands.installation)
    id = new_dispatch_id()
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks == 4:  # the last one: the Secret is there, and the Job as it was read before the stop
            found = other.provider.find(id)
            assert found is not None
            other.stop(found)

    spec = Spec(command=("sh", "-c", GRACEFUL), secrets={"TOKEN": "hidden"})
    with pytest.raises(StopRequested):
        hands.provider.dispatch(id, spec, check)
    assert looks == 4
    selector = f"{names.DISPATCH}={id}"
    eventually(lambda: not hands.api.list("jobs", selector)[0])
    assert hands.api.list("pods", selector)[0] == []
    other.provider.close()


def test_what_the_cluster_refuses_is_a_definite_refusal(hands: Hands) -> None:
    with pytest.raises(SubmitRefused, match="63") as caught:
        hands.start(options={"labels": {"team": "x" * 64}})
    assert caught.value.reason == "job_refused"


def test_credentials_that_are_refused_name_their_source(emulator: K8sEmulator, tmp_path: Path) -> None:
    emulator.faults.clear()
    nobody = emulator.kubeconfig(tmp_path / "nobody", token=emulator.token("system:serviceaccount:default:nobody"))
    hands = Hands(emulator, tmp_path, kubeconfig=nobody)
    with pytest.raises(PermissionDenied, match=r"namespaces.*nobody"):
        hands.start()
    wrong = emulator.kubeconfig(tmp_path / "wrong", token="wrong")
    with pytest.raises(PermissionDenied, match=r"Unauthorized.*wrong"):
        Hands(emulator, tmp_path, kubeconfig=wrong).start()


def test_another_namespace_of_the_same_name_is_another_backend(hands: Hands) -> None:
    handle = hands.start()
    elsewhere = handle.model_copy(update={"backend": "another-uid"})
    with pytest.raises(Unreachable, match="another-uid"):
        hands.observe(elsewhere)
    with pytest.raises(Unreachable, match="another-uid"):
        hands.stop(elsewhere)
    seen = hands.provider.observe([handle, elsewhere])
    assert (seen[1].phase, seen[1].reachable) == (Phase.RUNNING, False)
    assert hands.provider.dispatch(handle.id, Spec(command=("sh", "-c", GRACEFUL), grace=5), never) == handle


def test_a_namespace_that_was_made_anew_does_not_answer_for_the_old_one(hands: Hands, tmp_path: Path) -> None:
    def make() -> None:
        hands.api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": "again"}})

    make()
    mine = Hands(hands.emulator, tmp_path, "again", namespace="again")
    handle = mine.start("exit 0")
    mine.end(handle)
    hands.api.call("DELETE", "/api/v1/namespaces/again")

    def listed() -> list[str]:
        return [one["metadata"]["name"] for one in hands.api.call("GET", "/api/v1/namespaces")["items"]]

    eventually(lambda: "again" not in listed())
    make()
    for ask in (lambda: mine.observe(handle), lambda: mine.stop(handle)):
        mine.provider._proof = (handle.backend, time.monotonic())  # what it knew a moment ago
        with pytest.raises(Unreachable, match=handle.backend):
            ask()
    mine.provider.close()
