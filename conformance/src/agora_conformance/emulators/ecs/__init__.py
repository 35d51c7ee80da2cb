"""An emulated ECS on Fargate, with CloudWatch Logs, Secrets Manager and SQS; see README.md beside this package."""

from agora_conformance.emulators.ecs.clock import Timing
from agora_conformance.emulators.ecs.emulator import EcsEmulator
from agora_conformance.emulators.ecs.faults import Faults
from agora_conformance.emulators.ecs.throttle import Throttle
from agora_conformance.emulators.runner import Image

__all__ = ["EcsEmulator", "Faults", "Image", "Throttle", "Timing"]
