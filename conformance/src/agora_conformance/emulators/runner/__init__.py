"""Containers as real processes: images, logs, and a launcher that gives each its own PID namespace."""

from agora_conformance.emulators.runner.container import Container, ContainerSpec, Exit, StartFailed
from agora_conformance.emulators.runner.images import Image, Images, PullFailed
from agora_conformance.emulators.runner.logs import Line, Log
from agora_conformance.emulators.runner.runner import Runner

__all__ = [
    "Container",
    "ContainerSpec",
    "Exit",
    "Image",
    "Images",
    "Line",
    "Log",
    "PullFailed",
    "Runner",
    "StartFailed",
]
