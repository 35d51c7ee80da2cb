"""Task events and states, as the client reports them."""

from __future__ import annotations

from typing import Any

from agora_conformance.emulators.nomad.drivers import Result
from agora_conformance.emulators.nomad.errors import Object
from agora_conformance.emulators.nomad.timing import duration, nano

#: Events that are kept of a task (`MaxEvents`).
KEPT = 10
EVENT: Object = {
    "Details": {}, "DiskLimit": 0, "DisplayMessage": "", "DownloadError": "", "DriverError": "", "DriverMessage": "",
    "ExitCode": 0, "FailedSibling": "", "FailsTask": False, "GenericSource": "", "KillError": "", "KillReason": "",
    "KillTimeout": 0, "Message": "", "RestartReason": "", "SetupError": "", "Signal": 0, "StartDelay": 0,
    "TaskSignal": "", "TaskSignalReason": "", "Time": 0, "Type": "", "ValidationError": "", "VaultError": "",
}  # fmt: skip
STATE: Object = {
    "Events": [], "Failed": False, "FinishedAt": None, "LastRestart": None, "Paused": "", "Restarts": 0,
    "StartedAt": None, "State": "pending",
}  # fmt: skip
NO_RESTARTS = "Policy allows no restarts"
TOO_MANY = 'Exceeded allowed attempts {} in interval {} and mode is "fail"'


def event(kind: str, message: str, **fields: Any) -> Object:
    """Return an event.

    Parameters:
        kind: its type.
        message: what people read.
        fields: others of its fields.
    """
    return {**EVENT, "Type": kind, "DisplayMessage": message, "Time": nano(), **fields}


def received() -> Object:
    """Return: the client has it."""
    return event("Received", "Task received by client")


def setup() -> Object:
    """Return: its directory is being made."""
    text = "Building Task Directory"
    return event("Task Setup", text, Message=text, Details={"message": text})


def started() -> Object:
    """Return: it runs."""
    return event("Started", "Task started by client")


def downloading(image: str) -> Object:
    """Return: docker pulls its image."""
    text = "Downloading image"
    return event("Driver", text, DriverMessage=text, Details={"image": image})


def driver_failure(problem: str) -> Object:
    """Return: the driver could not start it."""
    return event("Driver Failure", problem, DriverError=problem, Details={"driver_error": problem})


def failed_validation(problem: str) -> Object:
    """Return: its configuration cannot be read."""
    return event("Failed Validation", problem, ValidationError=problem, Details={"validation_error": problem})


def killing(timeout: int, reason: str = "") -> Object:
    """Return: it is told to stop, with `timeout` nanoseconds to do so."""
    text = f"Sent interrupt. Waiting {duration(timeout)} before force killing"
    details = {"kill_timeout": duration(timeout)}
    return event("Killing", reason or text, KillTimeout=timeout, Details=details)


def killed() -> Object:
    """Return: it has stopped because it was told to."""
    return event("Killed", "Task successfully killed")


def signaling(name: str) -> Object:
    """Return: it is sent a signal."""
    return event("Signaling", "Task being sent a signal", TaskSignal="", Details={"signal": name})


def terminated(end: Result) -> Object:
    """Return: its process has ended."""
    details = {"exit_code": str(end.code), "signal": str(end.signal), "oom_killed": str(end.oom).lower()}
    words = f"Exit Code: {end.code}"
    if end.signal:
        words += f", Signal: {end.signal}"
    if end.message:
        words += f', Exit Message: "{end.message}"'
        details["exit_message"] = end.message
    return event(
        "Terminated", words, ExitCode=end.code, Signal=end.signal, Message=end.message, Details=details
    )  # fmt: skip


def not_restarting(reason: str) -> Object:
    """Return: it failed, and stays so."""
    details = {"restart_reason": reason, "fails_task": "true"}
    return event("Not Restarting", reason, RestartReason=reason, FailsTask=True, Details=details)


def restarting(delay: int, reason: str) -> Object:
    """Return: it failed, and begins again after `delay` nanoseconds."""
    details = {"restart_reason": reason, "start_delay": str(delay)}
    text = f"Task restarting in {duration(delay)}"
    return event("Restarting", text, RestartReason=reason, StartDelay=delay, Details=details)


def reconnected() -> Object:
    """Return: the servers hear of it again."""
    return event("Reconnected", "Client reconnected")
