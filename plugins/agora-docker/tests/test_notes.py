"""What is noted of a dispatch beside the engine, by many at once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agora_docker.notes import Notes

ENGINE = "B7DI:OBIC:M4EF"
CONTAINER = "9d1129" * 10


def test_whoever_notes_and_reads_at_once_finds_whole_notes(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")
    notes.send("d1", ENGINE)
    notes.made("d1", CONTAINER)

    def once(_: int) -> set[str | None]:
        notes.send("d1", ENGINE)
        notes.made("d1", CONTAINER)
        return {notes.sent_to("d1"), notes.container("d1")}

    with ThreadPoolExecutor(4) as threads:
        found = set().union(*threads.map(once, range(200)))
    assert found == {ENGINE, CONTAINER}


def test_a_shorter_note_replaces_a_longer_one_whole_and_all_are_forgotten(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")
    notes.send("d1", "a-longer-name-of-an-engine")
    notes.send("d1", ENGINE)
    notes.made("d1", CONTAINER)
    assert notes.sent_to("d1") == ENGINE
    notes.forget("d1")
    assert (notes.sent_to("d1"), notes.container("d1")) == (None, None)
    assert list((tmp_path / "notes").iterdir()) == []
