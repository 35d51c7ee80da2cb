"""A workload that does something and cleans up: counts primes, saves where it was when it is told to stop."""

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType


class Told(Exception):
    """SIGTERM came."""


def tell(number: int, frame: FrameType | None) -> None:
    """Interrupt the work."""
    raise Told


def main() -> int:
    """Count primes until told to stop; exit 0 after saving, as a well-behaved program would."""
    checkpoint = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, tell)
    found, candidate, said = 0, 1, 0.0
    try:
        while True:
            candidate += 1
            if all(candidate % divisor for divisor in range(2, int(candidate**0.5) + 1)):
                found += 1
            if time.monotonic() - said > 0.5:
                said = time.monotonic()
                print(f"{found} primes up to {candidate}", flush=True)
    except Told:
        checkpoint.write_text(json.dumps({"found": found, "candidate": candidate}))
        print(f"told to stop; saved {found} primes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
