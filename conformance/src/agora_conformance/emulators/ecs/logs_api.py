"""The requests of CloudWatch Logs that the emulator knows."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

from agora_conformance.emulators.ecs.cloudwatch import Event, Group, LogGroups, Stream
from agora_conformance.emulators.ecs.errors import ApiError, Object, invalid

#: Events and bytes of a page (botocore: GetLogEvents), and what an event weighs beside its text (PutLogEvents).
EVENTS, BYTES, WEIGHT = 10_000, 2**20, 26


class LogsApi:
    """Answers requests about logs.

    Parameters:
        groups: what there is.
    """

    def __init__(self, groups: LogGroups) -> None:
        self._groups = groups

    def create_group(self, body: Object) -> Object:
        """CreateLogGroup."""
        self._groups.create(body["logGroupName"])
        return {}

    def delete_group(self, body: Object) -> Object:
        """DeleteLogGroup."""
        del self._groups.groups[self._groups.group(body["logGroupName"]).name]
        return {}

    def retain(self, body: Object) -> Object:
        """PutRetentionPolicy."""
        self._groups.group(body["logGroupName"]).retention = body["retentionInDays"]
        return {}

    def create_stream(self, body: Object) -> Object:
        """CreateLogStream."""
        self._groups.create_stream(body["logGroupName"], body["logStreamName"])
        return {}

    def delete_stream(self, body: Object) -> Object:
        """DeleteLogStream."""
        stream = self._groups.stream(body["logGroupName"], body["logStreamName"])
        del self._groups.group(body["logGroupName"]).streams[stream.name]
        return {}

    def describe_groups(self, body: Object) -> Object:
        """DescribeLogGroups."""
        prefix = body.get("logGroupNamePrefix", "")
        found = [self._look(group) for name, group in sorted(self._groups.groups.items()) if name.startswith(prefix)]
        return _piece(found, body, "logGroups", 50)

    @staticmethod
    def _look(group: Group) -> Object:
        look: Object = {
            "logGroupName": group.name,
            "creationTime": group.created,
            "metricFilterCount": 0,
            "arn": f"{group.arn}:*",
            "storedBytes": 0,
            "logGroupClass": "STANDARD",
            "logGroupArn": group.arn,
        }
        return look if group.retention is None else look | {"retentionInDays": group.retention}

    def describe_streams(self, body: Object) -> Object:
        """DescribeLogStreams."""
        group, prefix = self._group(body), body.get("logStreamNamePrefix", "")
        by_time = body.get("orderBy") == "LastEventTime"
        if by_time and prefix:
            raise invalid("Cannot order by LastEventTime with a logStreamNamePrefix.")
        found = [one for one in group.streams.values() if one.name.startswith(prefix)]
        order: Callable[[Stream], tuple[int, str]] = (
            (lambda one: (one.events[-1].at if one.events else 0, one.name)) if by_time else (lambda one: (0, one.name))
        )
        found.sort(key=order, reverse=body.get("descending", False))
        looks = []
        for one in found:
            look: Object = {"logStreamName": one.name, "creationTime": one.created, "arn": one.arn, "storedBytes": 0}
            if events := one.readable():
                look["firstEventTimestamp"], look["lastEventTimestamp"] = events[0].at, events[-1].at
                look["lastIngestionTime"] = events[-1].ingested
            looks.append(look)
        return _piece(looks, body, "logStreams", 50)

    def _group(self, body: Object) -> Group:
        if ("logGroupName" in body) == ("logGroupIdentifier" in body):
            raise invalid("Exactly one of logGroupName and logGroupIdentifier must be specified.")
        name: str = body.get("logGroupName") or body["logGroupIdentifier"]
        return self._groups.group(name.rpartition("log-group:")[2])

    # -- events --------------------------------------------------------------------------------------------------

    def get(self, body: Object) -> Object:
        """GetLogEvents: the token at the end of a direction is the one that was sent."""
        stream = self._groups.stream(self._group(body).name, body["logStreamName"])
        limit = body.get("limit", EVENTS)
        readable = stream.readable()
        events = [one for one in readable if _in_time(one, body)]
        token, ahead = body.get("nextToken"), body.get("startFromHead", False)
        if token is not None:
            way, place = _read_token(token)
            ahead = way == "f"
            later = [one for one in events if one.number >= place]
            shown = _first(later, limit) if ahead else _last([one for one in events if one.number < place], limit)
        else:
            place = 0 if ahead else len(readable)
            shown = _first(events, limit) if ahead else _last(events, limit)
        first = shown[0].number if shown else place
        after = shown[-1].number + 1 if shown else place
        return {
            "events": [
                {"timestamp": one.at, "message": one.message, "ingestionTime": one.ingested} for one in shown
            ],
            "nextForwardToken": _token("f", after),
            "nextBackwardToken": _token("b", first),
        }  # fmt: skip

    def filter(self, body: Object) -> Object:
        """FilterLogEvents, without patterns but a plain text in double quotes."""
        group = self._group(body)
        names, prefix = body.get("logStreamNames"), body.get("logStreamNamePrefix")
        if names is not None and prefix is not None:
            raise invalid("logStreamNames and logStreamNamePrefix cannot be used together.")
        text = body.get("filterPattern", "").strip()
        if text and not (len(text) > 1 and text[0] == text[-1] == '"'):
            raise invalid('the emulator knows no filter patterns but "a text"')
        found = []
        for stream in group.streams.values():
            if (names is None or stream.name in names) and stream.name.startswith(prefix or ""):
                found += [(one, stream) for one in stream.readable() if _in_time(one, body)]
        found = [one for one in found if text.strip('"') in one[0].message]
        found.sort(key=lambda one: (one[0].at, one[0].ingested, one[1].name, one[0].number))
        if not body.get("startFromHead", True):
            found.reverse()
        start, limit = 0, body.get("limit", EVENTS)
        if (token := body.get("nextToken")) is not None:
            start = _read_token(token)[1]
        shown = found[start : start + limit]
        answer: Object = {
            "events": [
                {
                    "logStreamName": stream.name, "timestamp": one.at, "message": one.message,
                    "ingestionTime": one.ingested, "eventId": f"{one.at:032d}{one.number:024d}",
                }
                for one, stream in shown
            ],
            "searchedLogStreams": [],
        }  # fmt: skip
        if start + limit < len(found):
            answer["nextToken"] = _token("f", start + limit)
        return answer


def _in_time(event: Event, body: Object) -> bool:
    return bool(body.get("startTime", 0) <= event.at < body.get("endTime", float("inf")))


def _first(events: list[Event], limit: int) -> list[Event]:
    """Return as many events as fit a page."""
    weight = 0
    for count, event in enumerate(events[:limit]):
        weight += len(event.message.encode()) + WEIGHT
        if weight > BYTES:
            return events[:count]
    return events[:limit]


def _last(events: list[Event], limit: int) -> list[Event]:
    return _first(events[::-1], limit)[::-1]


def _token(way: str, place: int) -> str:
    return f"{way}/{base64.urlsafe_b64encode(f'{place:056d}'.encode()).decode()}"


def _read_token(token: str) -> tuple[str, int]:
    way, _, place = token.partition("/")
    try:
        if way not in ("f", "b"):
            raise ValueError(way)
        return way, int(base64.urlsafe_b64decode(place.encode()).decode())
    except (ValueError, binascii.Error):
        raise ApiError("InvalidParameterException", "The specified nextToken is invalid.") from None


def _piece(found: list[Object], body: Object, member: str, size: int) -> Object:
    limit = body.get("limit", size)
    start = _read_token(body["nextToken"])[1] if "nextToken" in body else 0
    answer: Object = {member: found[start : start + limit]}
    if start + limit < len(found):
        answer["nextToken"] = _token("f", start + limit)
    return answer
