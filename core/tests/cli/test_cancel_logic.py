"""What `cancel` chooses, says and exits with, with a client whose answers are given."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from agora import errors
from agora.cli import app as cli_app
from agora.cli.base import Session
from agora.model.cancel import CancelResult, Outcome
from agora.model.cause import Cause, Via
from agora.model.record import Failure, Record, State

IDS = ("01jx00000000000000000000aa", "01jx00000000000000000000ab", "01jx00000000000000000000ac")


class GivenClient:
    """A client that answers from tables and notes what it was asked."""

    def __init__(self, records: list[Record]) -> None:
        self.records = {record.id: record for record in records}
        self.answers: dict[str, CancelResult | Exception] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.filters: list[dict[str, Any]] = []
        self.ends: dict[str, Record | Exception] = {}

    async def __aenter__(self) -> "GivenClient":
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def resolve(self, text: str) -> str:
        found = [id for id in self.records if id.startswith(text) or id.endswith(text)]
        if not found:
            raise errors.DispatchNotFound(f"no dispatch {text}")
        if len(found) > 1:
            raise errors.AmbiguousId(f"{text} names {len(found)} dispatches")
        return found[0]

    async def get(self, id: str, *, refresh: bool = True) -> Record:
        return self.records[id]

    async def list(self, **filters: Any) -> list[Record]:
        self.filters.append({key: value for key, value in filters.items() if value is not None})
        found = list(self.records.values())
        for key in ("run", "name", "target"):
            if filters.get(key):
                found = [record for record in found if getattr(record, key) == filters[key]]
        for key, value in (filters.get("labels") or {}).items():
            found = [record for record in found if record.labels.get(key) == value]
        return found[: filters.get("limit") or None]

    async def cancel(self, id: str, **asked: Any) -> CancelResult:
        self.asked.append((id, asked))
        answer = self.answers.get(
            id, CancelResult(id=id, outcome=Outcome.STOPPING, state=State.STOPPING, delivered=True)
        )
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def wait(self, id: str, *, timeout: float, confirmed: bool) -> Record:
        self.asked.append((id, {"timeout": timeout, "confirmed": confirmed}))
        end = self.ends[id]
        if isinstance(end, Exception):
            raise end
        return end


Invoke = Callable[..., int]


@pytest.fixture
def client(make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch) -> GivenClient:
    """Give the command line a client with three running dispatches, two of them of run r."""
    given = GivenClient([
        make_record(id=IDS[0], run="r", name="a", labels={"team": "data"}),
        make_record(id=IDS[1], run="r", name="b", labels={"team": "data"}, target="other"),
        make_record(id=IDS[2], labels={"team": "web"}),
    ])  # fmt: skip
    monkeypatch.setattr(Session, "client", lambda self: given)
    return given


def invoke(*args: str) -> int:
    """Run a command line in this process."""
    return cli_app.invoke(args)


def cancelled(client: GivenClient) -> set[str]:
    """Return which dispatches were cancelled."""
    return {id for id, asked in client.asked if "reason" in asked}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([IDS[0]], {IDS[0]}),
        ([IDS[0][-2:], IDS[2], IDS[0]], {IDS[0], IDS[2]}),
        (["--all", "--yes"], set(IDS)),
        (["--run", "r", "--yes"], {IDS[0], IDS[1]}),
        (["--run", "r", "b"], {IDS[1]}),
        (["--label", "team=data", "--yes"], {IDS[0], IDS[1]}),
        (["--label", "team=data", "--on", "other", "--yes"], {IDS[1]}),
        (["--older-than", "2h", "--yes"], set(IDS)),
    ],
)
def test_a_selection_takes_exactly_those(client: GivenClient, args: list[str], expected: set[str]) -> None:
    assert invoke("cancel", *args) == 0
    assert cancelled(client) == expected


def test_the_age_of_a_selection_reaches_the_store_and_only_live_ones_are_asked_for(client: GivenClient) -> None:
    invoke("cancel", "--older-than", "2h", "--yes")
    assert client.filters[0]["older_than"].total_seconds() == 7200
    assert client.filters[0]["live"] is True


def test_an_ended_one_that_is_not_confirmed_yet_is_not_cancelled_in_bulk(
    client: GivenClient, make_record: Callable[..., Record]
) -> None:
    client.records[IDS[0]] = make_record("cancelled", id=IDS[0], confirmed=False)
    invoke("cancel", "--all", "--yes")
    assert cancelled(client) == {IDS[1], IDS[2]}


@pytest.mark.parametrize(
    "args",
    [[], ["--label", "team=data", IDS[0]], ["--all", IDS[0]], ["--run", "r", "a", "--all"], ["--grace", "0", IDS[0]],
     ["No such id!"], ["--older-than", "-2h"]],
)  # fmt: skip
def test_a_call_that_contradicts_itself_does_nothing(client: GivenClient, args: list[str]) -> None:
    assert invoke("cancel", *args) == 2
    assert client.asked == []


@pytest.mark.parametrize("args", [["--all"], ["--run", "r"], ["--label", "team=data"], ["--all", "--json"]])
def test_bulk_without_a_terminal_needs_yes(
    client: GivenClient, args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke("cancel", *args) == 2
    assert client.asked == []
    assert "add --yes" in capsys.readouterr().err


def test_an_ambiguous_id_among_others_stops_everything(client: GivenClient) -> None:
    assert invoke("cancel", IDS[0], "01jx") == 2
    assert client.asked == []


def test_a_missing_id_among_others_is_told_and_the_others_are_cancelled(
    client: GivenClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke("cancel", "--json", "zzzz", IDS[0]) == 4
    assert cancelled(client) == {IDS[0]}
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["id"]: line["outcome"] for line in lines} == {IDS[0]: "STOPPING", "zzzz": "NOT_FOUND"}


@pytest.mark.parametrize("args", [["--run", "nobody", "--yes"], ["--run", "r", "c"], ["zzzz"]])
def test_a_name_that_nothing_has_is_not_found(client: GivenClient, args: list[str]) -> None:
    assert invoke("cancel", *args) == 4
    assert client.asked == []


def test_reason_grace_and_force_are_passed_on(client: GivenClient) -> None:
    invoke("cancel", IDS[0], "--reason", "too slow", "--grace", "5", "--force")
    invoke("cancel", IDS[1], "--soft", "60", "--children-grace", "1m")
    invoke("cancel", IDS[2], "--children-force")
    nothing = {"reason": None, "grace": None, "force": False, "soft": None}
    assert client.asked == [
        (
            IDS[0],
            {
                "reason": "too slow",
                "grace": 5,
                "force": True,
                "soft": None,
                "children_grace": None,
                "children_force": False,
            },
        ),
        (IDS[1], {**nothing, "soft": 60, "children_grace": 60, "children_force": False}),
        (IDS[2], {**nothing, "children_grace": None, "children_force": True}),
    ]


@pytest.mark.parametrize("args", [["--soft", "60", "--force"], ["--children-grace", "5", "--children-force"]])
def test_what_contradicts_itself_is_not_asked_for(
    client: GivenClient, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    assert invoke("cancel", IDS[0], *args) == 2
    assert "choose one" in capsys.readouterr().err
    assert client.asked == []


def test_what_is_below_is_told_line_by_line(client: GivenClient, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = Failure(type="damaged_record", message="the record cannot be read", retryable=False)
    children = (
        CancelResult(id="c1", outcome=Outcome.STOPPING, delivered=True),
        CancelResult(id="c2", outcome=Outcome.ALREADY_SUCCEEDED),
        CancelResult(id="c3", outcome=Outcome.NOT_RECORDED, error=damaged),
    )
    stopping = CancelResult(id=IDS[0], outcome=Outcome.STOPPING, delivered=True, children=children, more_children=7)
    client.answers[IDS[0]] = stopping
    assert invoke("cancel", IDS[0]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        f"{IDS[0]} stopping",
        "c1 stopping",
        "c2 had ended already: succeeded; nothing was changed",
        "c3 could not be asked to stop: the record cannot be read",
    ]
    assert f"7 more below {IDS[0]} had ended already" in told.err


def test_a_dry_run_lists_and_does_nothing(client: GivenClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("cancel", "--label", "team=data", "--dry-run", "--json") == 0
    assert client.asked == []
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [IDS[0], IDS[1]]


def test_a_dry_run_knows_the_codes(client: GivenClient, make_record: Callable[..., Record]) -> None:
    client.records[IDS[0]] = make_record("succeeded", id=IDS[0])
    assert invoke("cancel", IDS[0], "--dry-run") == 3
    assert invoke("cancel", "zzzz", "--dry-run") == 4


CAUSE = Cause(actor="bob", via=Via.MCP, reason="first")


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ({"outcome": "CANCELLED", "state": "cancelled"}, 0, "cancelled before anything was started"),
        ({"outcome": "STOPPING", "state": "stopping", "delivered": True, "effective_grace": 5.0}, 0,
         "stopping, 5 s of grace"),
        ({"outcome": "STOPPING", "state": "stopping"}, 0, "its worker is asked to end by itself"),
        ({"outcome": "STOPPING", "state": "stopping", "delivered": False,
          "error": Failure(type="unreachable", message="no answer")}, 7,
         "recorded and not delivered yet (unreachable: no answer), it will be tried again"),
        ({"outcome": "ALREADY_STOPPING", "state": "stopping", "delivered": True, "cause": CAUSE}, 0,
         "is stopping already, asked for by bob via mcp: first"),
        ({"outcome": "ALREADY_STOPPING", "state": "stopping", "delivered": False, "cause": CAUSE}, 7,
         "is stopping already, asked for by bob via mcp: first; recorded and not delivered yet"),
        ({"outcome": "ALREADY_CANCELLED", "state": "cancelled", "delivered": True, "cause": CAUSE}, 0,
         "was cancelled already by bob via mcp: first"),
        ({"outcome": "ALREADY_TIMED_OUT", "state": "timed_out"}, 3,
         "had ended already: timed_out; nothing was changed"),
        ({"outcome": "ALREADY_SUCCEEDED", "state": "succeeded"}, 3,
         "had ended already: succeeded; nothing was changed"),
        ({"outcome": "FORBIDDEN"}, 5, "is not yours to cancel"),
        ({"outcome": "STOPPING", "state": "stopping", "delivered": True, "degraded": ("force",)}, 0,
         "stopping; this backend could not do as asked: force"),
    ],
)  # fmt: skip
def test_every_answer_has_its_code_and_words(
    client: GivenClient, answer: dict[str, Any], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client.answers[IDS[0]] = CancelResult(id=IDS[0], **answer)
    assert invoke("cancel", IDS[0]) == code
    assert words in capsys.readouterr().out


def test_one_that_fails_does_not_keep_the_others_from_being_cancelled(
    client: GivenClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.answers[IDS[1]] = errors.StoreError("disk is gone")
    assert invoke("cancel", "--all", "--yes", "--json") == 1
    assert cancelled(client) == set(IDS)
    lines = {line["id"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert lines[IDS[1]]["error"] == {"type": "StoreError", "message": "disk is gone"}
    assert lines[IDS[0]]["outcome"] == "STOPPING"


def test_wait_is_bounded_by_the_cancel_timeout_and_prints_the_record(
    client: GivenClient, make_record: Callable[..., Record], capsys: pytest.CaptureFixture[str]
) -> None:
    client.ends[IDS[0]] = make_record("cancelled", id=IDS[0], confirmed=True, forced=True)
    assert invoke("cancel", IDS[0], "--grace", "40", "--wait", "--json") == 0
    assert client.asked[-1] == (IDS[0], {"timeout": 105, "confirmed": True})
    answer = json.loads(capsys.readouterr().out)
    assert (answer["outcome"], answer["record"]["state"], answer["record"]["forced"]) == ("STOPPING", "cancelled", True)


def test_wait_that_sees_no_end_says_so_by_its_code(client: GivenClient) -> None:
    client.ends[IDS[0]] = TimeoutError()
    assert invoke("cancel", IDS[0], "--wait") == 7


def test_an_error_is_json_too(client: GivenClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("cancel", "--json") == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["error"]["type"] == "UsageError"
    assert printed.err.startswith("agora: Nothing to cancel")
