"""Run the tests again and again and show every run: a suite that fails now and then is a suite that fails."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUMMARY = ROOT / "reports" / "summary.json"
STAGES = ("tests", "serial", "conformance")


def main() -> int:
    """Run scripts/test so many times; return 0 where every run passed."""
    parser = argparse.ArgumentParser(prog="scripts/stability", description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=10, help="how often (default: 10)")
    stages_help = f"a stage of scripts/test; may be repeated (default: {', '.join(STAGES)})"
    parser.add_argument("--stage", action="append", metavar="STAGE", help=stages_help)
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("at least one run is needed")
    logs = ROOT / "reports" / "stability"
    logs.mkdir(parents=True, exist_ok=True)

    print(f"{'run':>4} {'seconds':>8} {'passed':>7} {'failed':>7}  result", flush=True)
    failed_runs = 0
    for number in range(1, options.runs + 1):
        SUMMARY.unlink(missing_ok=True)
        log = logs / f"run-{number}.log"
        command = (ROOT / "scripts" / "test", *(options.stage or STAGES))
        with log.open("wb") as output:
            # Bounded by the stages' own limits in scripts/test.
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False
            )
        failed_runs += done.returncode != 0
        result = "ok" if done.returncode == 0 else f"FAILED, see {log.relative_to(ROOT)}"
        summary = json.loads(SUMMARY.read_text(encoding="utf-8")) if SUMMARY.is_file() else {}
        seconds, passed, failed = (summary.get(key, "-") for key in ("seconds", "passed", "failed"))
        print(f"{number:>4} {seconds:>8} {passed:>7} {failed:>7}  {result}", flush=True)
    print(f"{options.runs - failed_runs} of {options.runs} runs passed", flush=True)
    return 1 if failed_runs else 0


if __name__ == "__main__":
    sys.exit(main())
