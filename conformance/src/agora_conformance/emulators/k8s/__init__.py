"""An emulated Kubernetes cluster; see README.md beside this package."""

from agora_conformance.emulators.k8s.clock import Timing
from agora_conformance.emulators.k8s.emulator import K8sEmulator
from agora_conformance.emulators.k8s.faults import Faults
from agora_conformance.emulators.runner import Image

__all__ = ["Faults", "Image", "K8sEmulator", "Timing"]
