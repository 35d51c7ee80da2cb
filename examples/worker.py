"""A workload that uses the worker kit: counts primes, tells how far it is, and saves its state when it is cancelled.

Usage: agora run -- python examples/worker.py CHECKPOINT [UP_TO]
"""

import json
import sys
from pathlib import Path

from agora.worker import BlockingWorker


def main() -> None:
    """Count primes, from where the last run was cancelled."""
    checkpoint = Path(sys.argv[1])
    up_to = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    with BlockingWorker() as worker:
        state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"found": 0, "candidate": 1}
        try:
            while state["candidate"] < up_to:
                candidate = state["candidate"] + 1
                prime = all(candidate % divisor for divisor in range(2, int(candidate**0.5) + 1))
                state = {"found": state["found"] + prime, "candidate": candidate}
                if candidate % 1000 == 0:
                    worker.progress(candidate, up_to, found=state["found"])
        finally:
            # Also when cancelled: SIGTERM raises agora.worker.Cancelled above.
            checkpoint.write_text(json.dumps(state))
        print(f"{state['found']} primes up to {up_to}")


if __name__ == "__main__":
    main()
