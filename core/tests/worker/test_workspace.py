"""The directory of a run goes with the run, whatever its end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., Any]

PROGRAM = """
import subprocess, sys, time
from pathlib import Path
from agora.worker import BlockingWorker
with BlockingWorker() as worker:
    here = Path(worker.workspace)
    assert worker.workspace == str(here)
    (here / "below").mkdir()
    (here / "below" / "file").write_text("x")
    # It writes there until the last moment.
    subprocess.Popen(["sh", "-c", f"trap '' TERM; while :; do echo x > {{here}}/busy; sleep 0.01; done"])
    print(here, flush=True)
    print("ready", flush=True)
    {end}
"""


@pytest.mark.parametrize(
    ("end", "code"), [("time.sleep(60)", 143), ("pass", 0), ("sys.exit(3)", 3), ("raise RuntimeError", 1)]
)
def test_the_workspace_is_gone_after_the_end(program: Start, tmp_path: Path, end: str, code: int) -> None:
    source = PROGRAM.format(end=end)
    if code != 143:
        source = source.replace("    subprocess.Popen", "    0 and subprocess.Popen")
    one = program(source)
    one.says("ready")
    here = Path(one.output.splitlines()[0])
    if code == 143:
        assert (here / "below" / "file").exists()
        assert here.stat().st_mode & 0o777 == 0o700
        one.tell()
    assert one.ends() == code, one.errors()
    assert here.parent == tmp_path
    assert not here.exists()
