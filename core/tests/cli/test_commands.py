"""The commands against real processes of the local provider; what counts is what the outside sees."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.backend("local")

Cli = Any
Eventually = Callable[[Callable[[], Any]], Any]

RECORD_KEYS = {
    "id", "name", "run", "owner", "target", "provider", "state", "reason", "exit_code", "signal", "oom", "confirmed",
    "forced", "acknowledged", "evidence", "reachable", "delivered", "degraded", "cause", "grace", "effective_grace",
    "timeout", "deadline", "budget", "spent", "requested_at", "submitted_at", "started_at", "stopping_at", "ended_at",
    "native", "labels", "notes",
}  # fmt: skip

#: Both leave a file with their pid once the trap is set. The first exits 7 when told to end.
LOOP = "while :; do sleep 0.05; done"
GRACEFUL = f"trap 'exit 7' TERM; touch $$.ready; {LOOP}"
STUBBORN = f"trap '' TERM; touch $$.ready; {LOOP}"


def is_there(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    return any(link.resolve() == path for link in Path(f"/proc/{pid}/fd").iterdir())


def hears(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: SigCgt of proc(5)."""
    (caught,) = re.findall(r"^SigCgt:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(caught, 16) >> (number - 1) & 1)


def running(cli: Cli, eventually: Eventually, script: str, *flags: str) -> dict[str, Any]:
    """Dispatch one of the scripts and wait until its trap is set; return its record, with the pid as seen here."""
    before = set(cli.directory.glob("*.ready"))
    id = cli.json("dispatch", *flags, "--", "sh", "-c", script)["id"]
    (ready,) = eventually(lambda: set(cli.directory.glob("*.ready")) - before)
    record: dict[str, Any] = eventually(lambda: (r := cli.json("show", id))["state"] == "running" and r)
    assert record["native"]["pid"] == int(ready.stem)
    return record


def test_a_record_in_json_has_exactly_the_promised_keys(cli: Cli, eventually: Eventually) -> None:
    record = cli.json("dispatch", "--label", "a=b", "--run", "r", "--name", "n", "--grace", "3", "--", "sleep", "60")
    assert set(record) == RECORD_KEYS
    assert (record["target"], record["provider"], record["grace"], record["run"]) == ("local", "local", 3, "r")
    assert record["labels"] == {"a": "b"}
    shown = eventually(lambda: (r := cli.json("show", record["id"]))["state"] == "running" and r)
    assert set(shown) == RECORD_KEYS
    assert Path(f"/proc/{shown['native']['pid']}/cmdline").read_bytes() == b"sleep\x0060\x00"
    assert datetime.fromisoformat(shown["requested_at"]).utcoffset() == datetime.now(UTC).utcoffset()


def test_dispatch_prints_the_id_alone(cli: Cli) -> None:
    done = cli("dispatch", "--", "true")
    assert done.code == 0
    assert len(done.out.strip()) == 26
    assert cli("wait", done.out.strip()).code == 0


def test_a_second_process_cancels_with_a_reason_that_everybody_sees(cli: Cli, eventually: Eventually) -> None:
    record = running(cli, eventually, GRACEFUL)
    result = cli.json("cancel", record["id"], "--reason", "too slow", "--actor", "alice", "--wait")
    assert (result["outcome"], result["delivered"]) == ("STOPPING", True)
    end = result["record"]
    assert (end["state"], end["exit_code"], end["forced"], end["confirmed"]) == ("cancelled", 7, False, True)
    assert not is_there(record["native"]["pid"])
    shown = cli("show", record["id"]).out
    assert "alice via cli: too slow" in shown
    assert "sh -c 'trap" in shown.split("Timeline")[0]
    for event in ("requested", "submitted", "started", "cancel_requested", "stopping", "terminated"):
        assert event in shown.split("Timeline")[1]
    assert "alice via cli: too slow" in cli("ps", "--all").out


def test_what_ignores_sigterm_is_killed_after_its_grace_and_called_forced(cli: Cli, eventually: Eventually) -> None:
    record = running(cli, eventually, STUBBORN, "--grace", "2")
    done = cli("cancel", record["id"], "--wait")
    assert done.code == 0
    assert "cancelled (forced" in done.out
    assert not is_there(record["native"]["pid"])


def test_a_part_of_the_id_is_enough(cli: Cli, eventually: Eventually) -> None:
    record = running(cli, eventually, GRACEFUL)
    assert cli.json("show", record["id"][:-4])["id"] == record["id"]
    assert cli.json("show", record["id"][-6:])["id"] == record["id"]
    assert cli("cancel", record["id"][-6:], "--wait").code == 0
    assert cli("show", "zzzzzz").code == 4


@pytest.mark.parametrize(
    ("script", "code", "state"),
    [("exit 0", 0, "succeeded"), ("exit 1", 1, "failed"), ("exit 42", 42, "failed"), ("kill -9 $$", 137, "failed")],
)
def test_run_and_wait_pass_the_code_on(cli: Cli, script: str, code: int, state: str) -> None:
    done = cli("run", "--json", "--", "sh", "-c", script)
    assert done.code == code
    record = done.objects[-1]
    assert record["state"] == state
    assert cli("wait", record["id"]).code == code


def test_run_keeps_output_and_its_own_words_apart(cli: Cli) -> None:
    done = cli("run", "-q", "--", "sh", "-c", 'echo out; echo err >&2; echo $0 "$1"', "$HOME", "a  b")
    assert (done.code, done.out, done.err) == (0, "out\n$HOME a  b\n", "err\n")


def test_run_in_json_prints_events_and_the_record_and_the_output_goes_to_stderr(cli: Cli) -> None:
    done = cli("run", "--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    *events, record = done.objects
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "dispatch.requested"
    assert events[-1]["type"] == "dispatch.terminated"
    assert set(record) == RECORD_KEYS
    assert sorted(done.err.split()) == ["err", "out"]


def test_a_deadline_ends_with_124(cli: Cli) -> None:
    done = cli("run", "--timeout", "2", "--grace", "2", "--", "sleep", "60")
    assert done.code == 124
    assert "timed_out" in done.err


def test_a_program_that_is_not_there_is_a_clear_failure(cli: Cli) -> None:
    done = cli("run", "--", "no-such-program-anywhere")
    assert done.code in (125, 127)
    assert "no-such-program-anywhere" in done.err or "not_found" in done.err
    assert cli("dispatch", "--", "no-such-program-anywhere").code in (0, 125)


def test_wait_can_be_bounded_and_never_ends_the_dispatch(cli: Cli, eventually: Eventually) -> None:
    record = running(cli, eventually, GRACEFUL)
    done = cli("wait", record["id"], "--timeout", "1")
    assert done.code == 125
    assert "still running" in done.err
    assert is_there(record["native"]["pid"])


def test_a_wait_of_no_time_is_a_look(cli: Cli, eventually: Eventually) -> None:
    record = running(cli, eventually, GRACEFUL)
    done = cli("wait", record["id"], "--timeout", "0")
    assert (done.code, done.out, done.err) == (125, "", f"agora: {record['id']} is running\n")
    cli("cancel", record["id"], "--wait")
    done = cli("wait", record["id"], "--timeout", "0", "--confirmed")
    assert (done.code, done.err) == (130, "")
    assert done.out.startswith(f"{record['id']} cancelled")


def test_interrupting_the_wait_of_a_cancel_says_that_the_cancel_goes_on(cli: Cli, eventually: Eventually) -> None:
    record = running(cli, eventually, STUBBORN, "--grace", "600")
    waiting = cli.start("cancel", record["id"], "--wait", "--reason", "enough")
    assert b"stopping" in waiting.stdout.readline()
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=50)
    assert waiting.returncode == 130
    words = f"the cancel of {record['id']} is recorded and goes on; `agora wait {record['id']}` waits for its end"
    assert said.decode().split("\n") == [f"agora: {words}", "", "agora: interrupted", ""]
    after = cli.json("show", record["id"])
    assert (after["state"], after["delivered"], after["cause"]["reason"]) == ("stopping", True, "enough")
    assert is_there(record["native"]["pid"])


def test_interrupting_a_wait_leaves_the_dispatch_alone(cli: Cli, eventually: Eventually) -> None:
    record = running(cli, eventually, GRACEFUL)
    waiting = cli.start("wait", record["id"])
    eventually(lambda: has_open(waiting.pid, cli.home / "agora.db"))
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=50)
    assert waiting.returncode == 130
    assert is_there(record["native"]["pid"])


def test_ps_lists_the_live_ones_or_all_of_them_as_a_plain_table(cli: Cli, eventually: Eventually) -> None:
    record = running(cli, eventually, GRACEFUL, "--run", "r", "--name", "n")
    cli("run", "--id", "over", "--", "true")
    out = cli("ps").out
    header, only = out.splitlines()
    assert header.split() == ["ID", "NAME", "STATE", "TARGET", "AGE", "CAUSE"]
    assert only.split()[:4] == [record["id"], "r/n", "running", "local"]
    assert "\x1b" not in out
    assert [row["id"] for row in cli("ps", "--json", "--all").objects] == ["over", record["id"]]


def test_ps_takes_what_matches_all_filters(cli: Cli) -> None:
    cli("run", "--id", "a", "--run", "r", "--name", "a-name", "--label", "team=data", "--", "true")
    cli("run", "--id", "b", "--run", "r", "--name", "b-name", "--label", "team=web", "--", "true")
    cli("run", "--id", "c", "--", "false")
    for flags, ids in (
        (["--label", "team=data"], ["a"]),
        (["--run", "r"], ["b", "a"]),
        (["--run", "r", "--name", "b-name"], ["b"]),
        (["--limit", "1"], ["c"]),
        (["--older-than", "1h"], []),
        (["--on", "elsewhere"], []),
        (["--state", "failed"], ["c"]),
        (["--state", "failed", "--state", "succeeded"], ["c", "b", "a"]),
    ):
        assert [row["id"] for row in cli("ps", "--json", "--all", *flags).objects] == ids, flags


def test_logs_follow_to_the_end_with_the_streams_apart(cli: Cli) -> None:
    id = cli.json("dispatch", "--", "sh", "-c", "for i in 1 2 3; do echo o$i; echo e$i >&2; sleep 0.1; done")["id"]
    done = cli("logs", "-f", id)
    assert (done.code, done.out, done.err) == (0, "o1\no2\no3\n", "e1\ne2\ne3\n")
    chunks = cli("logs", "--json", id).objects
    assert "".join(c["text"] for c in chunks if c["stream"] == "stdout") == "o1\no2\no3\n"
    assert set(chunks[0]) == {"stream", "at", "text", "dropped"}
    assert cli("logs", id, "--tail", "1").out.splitlines()[-1:] in ([], ["o3"])


def test_events_follow_to_the_end(cli: Cli, eventually: Eventually) -> None:
    record = running(cli, eventually, GRACEFUL)
    following = cli.start("events", "--json", "-f", record["id"])
    cli("cancel", record["id"])
    out, _ = following.communicate(timeout=50)
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["type"] for event in events].count("dispatch.terminated") == 1
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    later = cli("events", "--json", "--after", "3", record["id"]).objects
    assert [event["sequence"] for event in later] == [event["sequence"] for event in events[3:]]


def test_cancel_after_the_end_changes_nothing_and_exits_3(cli: Cli) -> None:
    cli("run", "--id", "done-1", "--", "true")
    done = cli("cancel", "--json", "done-1", "--reason", "late")
    assert (done.code, done.object["outcome"], done.object["state"]) == (3, "ALREADY_SUCCEEDED", "succeeded")
    assert cli.json("show", "done-1")["cause"] is None


def test_a_second_cancel_keeps_the_first_cause(cli: Cli, eventually: Eventually) -> None:
    record = running(cli, eventually, STUBBORN, "--grace", "20")
    assert cli("cancel", record["id"], "--reason", "first").code == 0
    again = cli.json("cancel", record["id"], "--reason", "second")
    assert (again["outcome"], again["cause"]["reason"]) == ("ALREADY_STOPPING", "first")
    assert cli("cancel", record["id"], "--force", "--wait").code == 0
    assert not is_there(record["native"]["pid"])


def test_a_bulk_cancel_takes_exactly_what_was_listed(cli: Cli, eventually: Eventually) -> None:
    pids = {
        team: running(cli, eventually, GRACEFUL, "--label", f"team={team}")["native"]["pid"] for team in ("data", "web")
    }
    assert cli("cancel", "--label", "team=data").code == 2
    listed = cli("cancel", "--json", "--label", "team=data", "--dry-run").objects
    assert [record["native"]["pid"] for record in listed] == [pids["data"]]
    assert all(map(is_there, pids.values()))
    assert cli("cancel", "--label", "team=data", "--yes", "--wait").code == 0
    assert not is_there(pids["data"])
    assert is_there(pids["web"])


def test_dispatching_one_id_twice_starts_it_once(cli: Cli, eventually: Eventually) -> None:
    first = cli.json("dispatch", "--id", "once", "--", "sleep", "60")
    second = cli.json("dispatch", "--id", "once", "--", "sleep", "60")
    assert first["id"] == second["id"] == "once"
    other = cli("dispatch", "--id", "once", "--json", "--", "sleep", "61")
    assert other.code == 1
    assert other.object["error"]["type"] == "DispatchConflict"
    assert len(cli("ps", "--all", "--json").objects) == 1


def test_secrets_reach_the_workload_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    cli.env["TOKEN_HERE"] = "hunter2-from-env"
    done = cli(
        "run", "--json", "--id", "quiet", "--secret", "TOKEN=env:TOKEN_HERE", "--", "sh", "-c",
        "case $TOKEN in *ter2-from-env) exit 0;; *) exit 9;; esac",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "hunter2" not in done.out + done.err + cli("show", "quiet").out
    del cli.env["TOKEN_HERE"]
    for folder, _, names in os.walk(cli.home):
        for file in (Path(folder, name) for name in names):
            with suppress(OSError):  # the background supervisor closes the store meanwhile; a socket is no file to read
                assert b"hunter2" not in file.read_bytes(), file


def test_a_reader_that_goes_away_is_no_error_to_complain_about(cli: Cli) -> None:
    for number in range(3):
        cli("run", "--id", f"n{number}", "--", "true")
    listing = cli.start("ps", "--all")
    listing.stdout.close()
    listing.wait(timeout=50)
    assert listing.returncode == 141
    assert listing.stderr.read() == b""


@pytest.mark.parametrize("args", [["ps", "--all"], ["ps", "--all", "--json"], ["show", "n"], ["logs", "n"]])
def test_a_full_disk_behind_stdout_is_one_clear_line(cli: Cli, args: list[str]) -> None:
    cli("run", "--id", "n", "--", "echo", "hello")
    with Path("/dev/full").open("w") as full:
        process = cli.start(*args, stdout=full)
        _, err = process.communicate(timeout=50)
    assert process.returncode == 1
    assert err.decode() == "agora: cannot write to stdout: No space left on device\n"


def test_run_goes_on_when_its_output_finds_no_space(cli: Cli) -> None:
    with Path("/dev/full").open("w") as full:
        process = cli.start("run", "--id", "n", "--", "sh", "-c", "echo hello; touch done; exit 3", stdout=full)
        _, err = process.communicate(timeout=50)
    assert process.returncode == 3
    assert "cannot write to stdout" in err.decode()
    assert (cli.directory / "done").exists()


def test_a_stdout_that_is_closed_from_the_start_is_none_to_write_to(cli: Cli) -> None:
    command = f"exec {sys.executable} -m agora ps --all >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, b"agora: no dispatches\n")


def test_run_into_a_closed_pipe_cancels_the_workload(cli: Cli, eventually: Eventually) -> None:
    process = cli.start("run", "--id", "piped", "--", "sh", "-c", "while :; do echo y; sleep 0.05; done")
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    process.wait(timeout=50)
    record = cli.json("show", "piped")
    assert (record["state"], record["cause"]["reason"]) == ("cancelled", "SIGPIPE")
    assert not is_there(record["native"]["pid"])


def test_prune_deletes_what_ended_and_keeps_what_lives(cli: Cli, eventually: Eventually) -> None:
    cli("run", "--id", "old", "--", "true")
    live = running(cli, eventually, GRACEFUL)
    assert [row["id"] for row in cli("prune", "--json", "--older-than", "0s", "--dry-run").objects] == ["old"]
    assert cli("show", "old").code == 0
    assert cli("prune", "--older-than", "1h").out == ""
    assert cli("prune", "--older-than", "0s").out == "old\n"
    assert cli("show", "old").code == 4
    assert cli("show", live["id"]).code == 0


def test_reap_reconcile_providers_and_targets_answer(cli: Cli) -> None:
    assert cli("reap", "--dry-run", "--json").objects == []
    assert cli("reconcile", "--json").object == {"checked": 0, "changed": [], "unreachable": []}
    (local,) = [row for row in cli("providers", "--json").objects if row["name"] == "local"]
    assert (local["distribution"], local["status"]) == ("agora-local", "ok")
    assert local["capabilities"]["shorten"]["support"] == "full"
    assert [row["name"] for row in cli("targets", "--json").objects] == ["local"]
    assert "agora-local" in cli("providers").out
    assert "local" in cli("targets").out


def test_supervise_ends_when_nothing_is_live_or_when_told(cli: Cli, eventually: Eventually) -> None:
    assert cli("supervise", "--until-idle").code == 0
    record = running(cli, eventually, GRACEFUL, "--no-supervisor")
    supervising = cli.start("supervise")
    eventually(lambda: hears(supervising.pid, signal.SIGTERM))
    cli("cancel", record["id"])
    eventually(lambda: cli.json("show", record["id"])["state"] == "cancelled")
    supervising.send_signal(signal.SIGTERM)
    supervising.communicate(timeout=50)
    assert supervising.returncode == 0


@pytest.mark.parametrize("name", ["event", "spec", "record", "cancel"])
def test_a_schema_describes_what_is_printed(cli: Cli, name: str) -> None:
    import jsonschema

    schema = cli("schema", name)
    shape = json.loads(schema.out)
    jsonschema.Draft202012Validator.check_schema(shape)
    if name == "record":
        record = cli("run", "--json", "--", "true").objects[-1]
        jsonschema.validate(record, shape)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**record, "colour": "red"}, shape)


def completed(words: str) -> list[str]:
    """Return what a shell would offer for the last word."""
    done = subprocess.run(
        [sys.executable, "-m", "agora"], capture_output=True, text=True, timeout=50, check=False,
        env={**os.environ, "_AGORA_COMPLETE": "bash_complete", "COMP_CWORD": str(words.count(" ")),
             "COMP_WORDS": words},
    )  # fmt: skip
    return [line.split(",")[1] for line in done.stdout.split()]


def test_ids_complete_from_the_store(cli: Cli) -> None:
    cli("run", "--id", "alpha-1", "--", "true")
    cli("run", "--id", "beta-2", "--", "true")
    assert completed("agora show al") == ["alpha-1"]
    assert completed("agora show a-2") == ["beta-2"]
    assert completed("agora show zzz") == []


def test_what_is_offered_is_what_the_command_can_do_something_about(cli: Cli) -> None:
    cli("run", "--id", "over-1", "--run", "nightly", "--name", "report", "--", "true")
    for number in (2, 3):
        cli("dispatch", "--id", f"live-{number}", "--run", "nightly", "--name", f"r{number}", "--", "sleep", "60")
    for command in ("show", "logs", "events"):
        assert set(completed(f"agora {command} ")) == {"over-1", "live-2", "live-3"}, command
    for command in ("cancel", "wait"):
        assert set(completed(f"agora {command} ")) == {"live-2", "live-3"}, command
    assert completed("agora cancel --run nightly r") == ["r2", "r3"]
    assert completed("agora cancel --run nightly r3") == ["r3"]
    assert completed("agora cancel --run other r") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(cli: Cli, shell: str) -> None:
    done = cli("completion", shell)
    assert done.code == 0
    assert "_AGORA_COMPLETE" in done.out


def test_completion_and_store_mean_the_same_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    from agora.cli.completion import state_directory
    from agora.store import default_home

    assert state_directory(None) == default_home()
    monkeypatch.delenv("AGORA_HOME")
    assert state_directory(None) == default_home()
