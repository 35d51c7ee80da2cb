"""Marks come out of any output, however it is cut, and everything else stays as it was."""

import time
from itertools import pairwise

import pytest
from agora.worker.marks import LINE_BYTES, Sieve, head, pack
from hypothesis import given
from hypothesis import strategies as st

EVENT = b'{"type":"dispatch.progress"}'
LOOKALIKES = [b"\x1e", b"\x1eagora", b"\x1eagora:1:d2 {}\n", b"\x1eagora:1:d1", b"agora:1:d1 {}\n", b"\x1e\x1e", b"\n"]
pieces = st.lists(
    st.one_of(st.binary(max_size=20), st.sampled_from(LOOKALIKES), st.just(pack("d1", EVENT))), max_size=12
)


def expected(parts: list[bytes]) -> tuple[bytes, int]:
    """What is left, told by the whole text at once and not piece by piece."""
    text, count, output = b"".join(parts), 0, b""
    while (at := text.find(head("d1"))) >= 0:
        end = text.find(b"\n", at)
        if end < 0:
            break
        output += text[:at]
        text = text[end + 1 :]
        count += 1
    return output + text, count


@given(parts=pieces, cuts=st.lists(st.integers(0, 400), max_size=8))
def test_any_output_cut_anywhere_loses_its_marks_alone(parts: list[bytes], cuts: list[int]) -> None:
    text = b"".join(parts)
    edges = [0, *sorted(cut for cut in cuts if cut <= len(text)), len(text)]
    sieve, output, events = Sieve("d1"), b"", []
    for start, end in pairwise(edges):
        rest, found = sieve.feed(text[start:end])
        output += rest
        events += found
    output += sieve.close()
    assert (output, len(events)) == expected(parts)


def test_output_that_is_no_mark_is_not_held_back() -> None:
    sieve = Sieve("d1")
    assert sieve.feed(b"a\x1eb") == (b"a\x1eb", [])
    assert sieve.feed(b"half a line") == (b"half a line", [])
    assert sieve.feed(b"x\x1eagora:1:") == (b"x", [])
    assert sieve.feed(b"d2 {}\n") == (b"\x1eagora:1:d2 {}\n", [])
    assert sieve.feed(head("d1") + b"x" * LINE_BYTES) == (head("d1") + b"x" * LINE_BYTES, []), "no mark is so long"


def test_a_line_longer_than_a_mark_is_output_however_it_is_cut() -> None:
    line = head("d1") + b"x" * LINE_BYTES + b"\n"
    assert Sieve("d1").feed(line) == (line, [])
    sieve = Sieve("d1")
    pieces = [sieve.feed(line[at : at + 1000])[0] for at in range(0, len(line), 1000)]
    assert b"".join(pieces) + sieve.close() == line
    longest = pack("d1", b"x" * (LINE_BYTES - len(head("d1")) - 1))
    for whole in (longest, longest.replace(b"\n", b"\r\n")):
        sieve = Sieve("d1")
        assert sieve.feed(whole[:-1]) == (b"", [])
        assert sieve.feed(whole[-1:]) == (b"", [longest[len(head("d1")) : -1]])


def test_output_full_of_separators_takes_no_time_to_speak_of() -> None:
    for data in (b"\x1e" * 500_000, head("d1") * 40_000):
        begun = time.process_time()
        sieve = Sieve("d1")
        output, events = sieve.feed(data)
        assert (output + sieve.close(), events) == (data, [])
        assert time.process_time() - begun < 5, "it takes longer than in proportion to its length"


def test_a_mark_in_mid_line_and_behind_a_terminal_leaves_the_line_whole() -> None:
    line = pack("d1", EVENT)
    assert Sieve("d1").feed(b"one " + line + b"line\n") == (b"one line\n", [EVENT])
    assert Sieve("d1").feed(line.replace(b"\n", b"\r\n")) == (b"", [EVENT])


def test_a_mark_is_one_write() -> None:
    with pytest.raises(ValueError, match="longer than 4096"):
        pack("d1", b"x" * LINE_BYTES)
