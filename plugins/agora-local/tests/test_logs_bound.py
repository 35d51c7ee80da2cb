"""Reading a log ends, however fast the workload writes."""

from itertools import islice
from pathlib import Path

from agora_local import logs
from agora_local.pump import FRAME, HEAD, MAGIC, file_name


def frame(text: bytes) -> bytes:
    return FRAME.pack(1, 0, 1, len(text)) + text


def test_what_is_written_while_it_is_read_is_not_waited_for(tmp_path: Path) -> None:
    log = tmp_path / file_name(0)
    log.write_bytes(HEAD.pack(MAGIC, 0) + frame(b"first\n") + frame(b"second\n"))
    seen = []
    for chunk in islice(logs.read(tmp_path, lambda: False), 100):
        seen.append(chunk.data)
        with log.open("ab") as file:
            file.write(frame(b"later\n"))
    assert seen == [b"first\n", b"second\n"]
    assert len(list(logs.read(tmp_path, lambda: True))) == 4
