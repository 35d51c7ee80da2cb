"""What the suite's own tests share: modules beside the tests of the emulators."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "emulators"))  # what the tests of the emulators share
