"""What the cluster's objects prove, and what they do not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from agora.model.observation import EndedBy, Observation, Phase
from agora_k8s import story
from k8s_objects import Item, annotated, main_state, recorded

STOPPED_AT_22_40 = '{"by": "me via api", "grace": 3, "at": "2026-11-21T00:22:40+00:00"}'


def test_a_job_without_pod_is_pending() -> None:
    assert story.look(recorded("job_new"), []).phase is Phase.PENDING
    assert story.look(recorded("job_active"), []).phase is Phase.PENDING


def test_nothing_at_all_is_absent() -> None:
    assert story.look(None, []).phase is Phase.ABSENT


@pytest.mark.parametrize("name", ["pod_created", "pod_creating"])
def test_a_pod_on_its_way_is_pending(name: str) -> None:
    seen = story.look(recorded("job_active"), [recorded(name)])
    assert (seen.phase, seen.reason) == (Phase.PENDING, None)


def test_a_running_pod_is_running_with_its_node() -> None:
    seen = story.look(recorded("job_active"), [recorded("pod_running")])
    assert (seen.phase, seen.reachable) == (Phase.RUNNING, True)
    assert seen.native["node"] == "vm"
    assert seen.started_at is not None


def test_a_stopping_pod_runs_with_its_grace() -> None:
    seen = story.look(recorded("job_active"), [recorded("pod_stopping")])
    assert (seen.phase, seen.effective_grace) == (Phase.RUNNING, 3)


# -- ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pod_exited_42", "pod_exited_42_last"])
def test_our_stop_keeps_the_exit_code(name: str) -> None:
    pod = annotated(recorded(name), cause=STOPPED_AT_22_40)
    seen = story.look(recorded("job_failed"), [pod])
    assert (seen.phase, seen.exit_code) == (Phase.ENDED, 42)
    assert (seen.forced, seen.evidence, seen.ended_by) == (False, "inferred", None)
    assert seen.stop_reached is None


@pytest.mark.parametrize("name", ["pod_killed", "pod_killed_last"])
def test_a_kill_after_the_grace_is_seen_in_the_time_of_the_end(name: str) -> None:
    pod = annotated(recorded(name), cause=STOPPED_AT_22_40)
    seen = story.look(recorded("job_failed"), [pod])
    assert (seen.exit_code, seen.forced, seen.evidence) == (137, True, "inferred")


def test_exit_code_137_within_the_grace_is_no_kill() -> None:
    pod = annotated(recorded("pod_killed"), cause=STOPPED_AT_22_40)
    main_state(pod)["terminated"]["finishedAt"] = "2026-11-21T00:22:40Z"
    assert story.look(recorded("job_failed"), [pod]).forced is False


def test_clocks_that_disagree_prove_no_kill() -> None:
    pod = annotated(recorded("pod_killed"), cause=STOPPED_AT_22_40)
    main_state(pod)["terminated"] |= {"startedAt": "2026-11-20T23:22:40Z", "finishedAt": "2026-11-20T23:22:43Z"}
    seen = story.look(recorded("job_failed"), [pod])
    assert (seen.phase, seen.forced, seen.evidence) == (Phase.ENDED, None, None)


def test_an_end_that_nobody_asked_for_is_its_own() -> None:
    seen = story.look(recorded("job_complete"), [recorded("pod_succeeded")])
    assert (seen.phase, seen.exit_code, seen.stop_reached) == (Phase.ENDED, 0, False)


def test_somebody_elses_delete_is_told_apart() -> None:
    seen = story.look(recorded("job_active"), [recorded("pod_exited_42")])
    assert (seen.exit_code, seen.ended_by) == (42, EndedBy.EXTERNAL)
    assert seen.message == "somebody else deleted the pod"


def test_a_suspension_of_ours_counts_as_our_stop() -> None:
    job = annotated(recorded("job_suspended"), cause=STOPPED_AT_22_40)
    assert story.look(job, [recorded("pod_exited_42")]).ended_by is None


def test_an_eviction_gives_the_clusters_words() -> None:
    pod = recorded("pod_exited_42")
    words = "Eviction API: evicting"
    pod["status"]["conditions"].append(
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": words}
    )
    seen = story.look(recorded("job_active"), [pod])
    assert (seen.ended_by, seen.message) == (EndedBy.EXTERNAL, words)


def test_node_pressure_evicts_without_a_delete() -> None:
    pod = recorded("pod_succeeded")
    pod["status"] |= {"reason": "Evicted", "message": "The node was low on resource: memory."}
    seen = story.look(recorded("job_active"), [pod])
    assert (seen.ended_by, seen.stop_reached) == (EndedBy.EXTERNAL, False)
    assert seen.message == "The node was low on resource: memory."


def test_the_jobs_deadline_is_told_before_its_condition_comes() -> None:
    job = recorded("job_active")
    asked = story.moment("2026-11-21T00:22:34Z")
    start = story.moment(job["status"]["startTime"])
    assert asked is not None
    assert start is not None
    job["spec"]["activeDeadlineSeconds"] = int((asked - start).total_seconds())
    assert story.look(job, [recorded("pod_exited_42")]).ended_by is EndedBy.DEADLINE
    job["spec"]["activeDeadlineSeconds"] += 60
    assert story.look(job, [recorded("pod_exited_42")]).ended_by is EndedBy.EXTERNAL


def test_an_out_of_memory_kill_is_named() -> None:
    pod = recorded("pod_killed")
    del pod["metadata"]["deletionTimestamp"], pod["metadata"]["deletionGracePeriodSeconds"]
    main_state(pod)["terminated"]["reason"] = "OOMKilled"
    seen = story.look(recorded("job_failed"), [pod])
    assert (seen.exit_code, seen.oom, seen.forced, seen.reason) == (137, True, None, "oom_killed")


# -- never started ---------------------------------------------------------------------------------------------


def test_exit_code_137_of_a_container_that_never_was_is_none() -> None:
    seen = story.look(recorded("job_suspended"), [recorded("pod_never_started")])
    assert (seen.phase, seen.never_started, seen.exit_code) == (Phase.ENDED, True, None)


def test_a_container_that_the_node_lost_had_started() -> None:
    pod = recorded("pod_never_started")
    main_state(pod)["terminated"]["message"] += ". The container used to be Running"
    seen = story.look(recorded("job_failed"), [pod])
    assert (seen.phase, seen.never_started, seen.exit_code, seen.reason) == (Phase.ENDED, False, None, "container_lost")


def test_a_start_that_was_given_up_says_why() -> None:
    job = annotated(recorded("job_suspended"), given_up="image_missing: ErrImageNeverPull: Container image is not")
    seen = story.look(job, [recorded("pod_never_started")])
    assert (seen.never_started, seen.reason) == (True, "image_missing")
    assert seen.message == "ErrImageNeverPull: Container image is not"


def test_a_program_that_is_not_there_never_started() -> None:
    pod = recorded("pod_succeeded")
    main_state(pod)["terminated"] = {
        "exitCode": 128,
        "reason": "StartError",
        "message": 'exec: "nope": executable file not found in $PATH: unknown',
        "startedAt": "1970-01-01T00:00:00Z",
        "finishedAt": "2026-11-21T00:22:40Z",
    }
    seen = story.look(recorded("job_failed"), [pod])
    assert (seen.never_started, seen.reason) == (True, "program_not_found")


def test_an_unbound_pod_that_is_deleted_can_never_start() -> None:
    pod = recorded("pod_created")
    assert "nodeName" not in pod["spec"]
    assert story.ended(None, pod) is None
    pod["metadata"]["deletionTimestamp"] = "2026-11-21T00:22:40Z"
    seen = story.look(recorded("job_suspended"), [pod])
    assert (seen.phase, seen.never_started) == (Phase.ENDED, True)


def test_a_node_that_refuses_a_pod_ends_it() -> None:
    pod = recorded("pod_created")
    pod["spec"]["nodeName"] = "vm"
    pod["status"] = {"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}
    seen = story.look(recorded("job_failed"), [pod])
    assert (seen.never_started, seen.message) == (True, "OutOfcpu: Node didn't have enough resource: cpu")


def test_a_job_that_we_suspended_before_it_had_a_pod_never_starts() -> None:
    job = annotated(recorded("job_suspended"), cause=STOPPED_AT_22_40)
    assert story.look(job, []).never_started
    job["status"]["conditions"] = []
    assert story.look(job, []).phase is Phase.PENDING, "its controller has not taken note yet"


def test_a_job_that_somebody_else_suspended_is_no_end() -> None:
    seen = story.look(recorded("job_suspended"), [])
    assert (seen.phase, seen.reason) == (Phase.PENDING, "suspended")


# -- no ends ---------------------------------------------------------------------------------------------------


def test_a_failed_job_without_its_pod_proves_nothing() -> None:
    assert story.look(recorded("job_failed"), []).phase is Phase.ABSENT


def test_a_completed_job_without_its_pod_succeeded() -> None:
    seen = story.look(recorded("job_complete"), [])
    assert (seen.phase, seen.exit_code) == (Phase.ENDED, 0)


def test_a_pod_that_the_collector_calls_failed_may_run() -> None:
    pod = recorded("pod_running")
    pod["metadata"]["deletionTimestamp"] = "2026-11-21T00:23:40Z"
    pod["status"]["phase"] = "Failed"
    pod["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"})
    seen = story.look(recorded("job_failed"), [pod])
    assert (seen.phase, seen.reachable, seen.reason) == (Phase.RUNNING, False, "node_away")


def test_a_pod_whose_node_is_silent_runs_on_out_of_reach() -> None:
    pod = recorded("pod_running")
    for condition in pod["status"]["conditions"]:
        if condition["type"] == "Ready":
            condition["status"] = "False"
    seen = story.look(recorded("job_active"), [pod])
    assert (seen.phase, seen.reachable, seen.reason) == (Phase.RUNNING, False, "node_away")


def test_an_image_that_is_missing_waits_with_the_clusters_words() -> None:
    seen = story.look(recorded("job_active"), [recorded("pod_image_missing")])
    assert (seen.phase, seen.reason) == (Phase.PENDING, "image_missing")
    assert seen.message is not None
    assert seen.message.startswith("ErrImageNeverPull: Container image")


def test_an_unschedulable_pod_waits_with_the_clusters_words() -> None:
    pod = recorded("pod_created")
    words = "0/1 nodes are available: 1 node(s) had untolerated taint."
    pod["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    ]
    seen = story.look(recorded("job_active"), [pod])
    assert (seen.phase, seen.reason, seen.message) == (Phase.PENDING, "unschedulable", words)


# -- several pods, and what is written down --------------------------------------------------------------------


def test_a_pod_that_may_run_counts_before_one_that_ended() -> None:
    seen = story.look(recorded("job_active"), [recorded("pod_exited_42"), recorded("pod_running")])
    assert seen.phase is Phase.RUNNING


def test_an_end_is_read_back_from_the_job() -> None:
    seen = story.look(recorded("job_failed"), [annotated(recorded("pod_killed"), cause=STOPPED_AT_22_40)])
    job = annotated(recorded("job_failed"), result=story.record(seen))
    assert story.look(job, []) == seen.model_copy(update={"native": {}})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"phase": "running"}', '{"phase": "ended", "exit_code": 256}'])
def test_a_spoiled_record_is_no_end(text: str) -> None:
    assert story.look(annotated(recorded("job_failed"), result=text), []).phase is Phase.ABSENT


def test_long_words_are_cut() -> None:
    pod: Item = recorded("pod_image_missing")
    main_state(pod)["waiting"]["message"] = "x" * 10_000
    assert len(story.look(recorded("job_active"), [pod]).message or "") == 1000


def test_a_stop_note_carries_the_time_of_the_server() -> None:
    at = story.moment("2026-11-21T00:22:40Z")
    assert at is not None
    note = story.stop_note("me", 3, at)
    pod = annotated(recorded("pod_killed_last"), cause=note)
    assert story.look(None, [pod]).forced is True
    late = annotated(recorded("pod_killed_last"), cause=story.stop_note("me", 3, at + timedelta(seconds=30)))
    assert story.look(None, [late]).forced is False


def test_observations_of_this_module_can_be_stored() -> None:
    for name in ("pod_exited_42", "pod_killed", "pod_never_started", "pod_succeeded"):
        seen = story.look(None, [recorded(name)])
        assert Observation.model_validate_json(seen.model_dump_json()) == seen
