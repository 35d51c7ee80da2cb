"""`--owner` and `AGORA_OWNER`: what belongs to somebody else lives on, and it is said plainly."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.backend("local")

Cli = Any


def lives(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def sleeping(cli: Cli, *flags: str, **env: str) -> dict[str, Any]:
    """Dispatch what sleeps; return its record."""
    done = cli("dispatch", "--json", "--grace", "2", *flags, "--", "sleep", "600", **env)
    assert done.code == 0, done.err
    record: dict[str, Any] = done.object
    return record


def events_of(cli: Cli, id: str) -> list[Any]:
    """The events of a dispatch and its version, read beside the command line."""
    with closing(sqlite3.connect(cli.home / "agora.db")) as connection:
        events = connection.execute("SELECT body FROM events WHERE dispatch_id = ? ORDER BY sequence", (id,)).fetchall()
        return [*events, *connection.execute("SELECT version, body FROM dispatches WHERE id = ?", (id,))]


def test_a_cancel_of_anothers_is_5_and_its_process_lives_on(cli: Cli) -> None:
    record = sleeping(cli, "--owner", "ann")
    before = events_of(cli, record["id"])
    done = cli("cancel", record["id"], "--force", "--wait", "--reason", "in my way", AGORA_OWNER="bob")
    assert done.code == 5
    assert "is not yours to cancel: it belongs to ann, and this client acts for bob" in done.out
    told = cli("cancel", "--json", record["id"], "--owner", "bob", "--wait")
    assert (told.code, told.object["outcome"], told.object["state"]) == (5, "FORBIDDEN", None)
    assert told.object["error"]["type"] == "forbidden"
    assert events_of(cli, record["id"]) == before
    assert lives(record["native"]["pid"])
    assert cli("cancel", record["id"], "--wait", AGORA_OWNER="ann").code == 0
    assert not lives(record["native"]["pid"])


def test_a_whole_run_leaves_anothers_alone_and_says_so(cli: Cli) -> None:
    mine = sleeping(cli, "--run", "r", "--name", "mine", "--owner", "ann")
    other = sleeping(cli, "--run", "r", "--name", "other", "--owner", "bob")
    nobodys = sleeping(cli, "--run", "r", "--name", "nobodys")
    look = cli("cancel", "--run", "r", "--dry-run", AGORA_OWNER="ann")
    assert look.code == 5
    assert f"{other['id']}: not yours to cancel: it belongs to bob" in look.err
    assert mine["id"] not in look.err
    done = cli("cancel", "--run", "r", "--yes", "--wait", AGORA_OWNER="ann")
    assert done.code == 5, "the worst of several"
    assert done.out.count("is not yours to cancel") == 2
    assert not lives(mine["native"]["pid"])
    assert lives(other["native"]["pid"])
    assert lives(nobodys["native"]["pid"])
    nothing_of_mine = cli("cancel", "--run", "r", AGORA_OWNER="ann")
    assert (nothing_of_mine.code, nothing_of_mine.out.count("not yours")) == (5, 2), "there is nothing to ask about"
    assert cli("cancel", "--all", "--owner", "bob", "--yes", "--wait").code == 0, "the option narrows"
    assert not lives(other["native"]["pid"])
    assert lives(nobodys["native"]["pid"])
    assert cli("cancel", "--all", "--owner", "", "--yes", "--wait", AGORA_OWNER="ann").code == 0, "the operator"
    assert not lives(nobodys["native"]["pid"])


def test_whose_it_is_is_listed_and_shown(cli: Cli) -> None:
    nobodys = sleeping(cli)
    assert "OWNER" not in cli("ps").out
    record = sleeping(cli, AGORA_OWNER="ann")
    assert (record["owner"], nobodys["owner"]) == ("ann", None)
    table = cli("ps", AGORA_OWNER="bob").out
    assert "OWNER" in table
    assert record["id"] in table
    assert nobodys["id"] in table
    assert [one["id"] for one in cli("ps", "--json", "--owner", "ann").objects] == [record["id"]]
    shown = cli("show", record["id"]).out
    assert any(line.split() == ["Owner", "ann"] for line in shown.splitlines())
    refused = cli("dispatch", "--id", record["id"], "--grace", "2", "--owner", "bob", "--", "sleep", "600")
    assert refused.code == 1
    assert f"{record['id']} exists for ann, not for bob" in refused.err


def test_no_plain_name_is_malformed(cli: Cli) -> None:
    by_option = cli("run", "--owner", "no/such", "--", "true")
    by_variable = cli("dispatch", "--", "true", AGORA_OWNER="no/such")
    for done in (by_option, by_variable):
        assert (done.code, "is no plain name" in done.err) == (2, True)
    assert cli.recorded() == 0


AGENT = """
import os
from agora import BlockingClient
with BlockingClient() as agora:
    child = agora.dispatch(command=["sh", "-c", "echo $AGORA_OWNER"], grace=2)
    child.wait()
    print(child.record.owner, b"".join(chunk.data for chunk in child.logs()).decode().strip())
    print(agora.cancel(os.environ["OTHER"]).outcome.value, flush=True)
"""


def test_what_a_workload_dispatches_is_of_the_same_owner_and_it_cancels_nothing_else(cli: Cli) -> None:
    other = sleeping(cli, "--owner", "bob")
    flags = ("-q", "--owner", "ann", "-e", f"OTHER={other['id']}")
    agent = cli("run", *flags, "--", sys.executable, "-c", AGENT, AGORA_OWNER="carl")
    assert (agent.code, agent.out.split()) == (0, ["ann", "ann", "FORBIDDEN"])
    assert lives(other["native"]["pid"])


def test_the_operators_workload_acts_for_nobody(cli: Cli) -> None:
    done = cli("run", "-q", "--owner", "", "--", "sh", "-c", "echo ${AGORA_OWNER-none}", AGORA_OWNER="ann")
    assert (done.code, done.out) == (0, "none\n")
