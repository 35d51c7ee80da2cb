"""An emulated Nomad cluster; see README.md beside this package."""

from agora_conformance.emulators.nomad.emulator import NomadEmulator
from agora_conformance.emulators.nomad.faults import Faults
from agora_conformance.emulators.nomad.timing import Timing
from agora_conformance.emulators.runner import Image

__all__ = ["Faults", "Image", "NomadEmulator", "Timing"]
