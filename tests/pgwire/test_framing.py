"""A scanner tells the same story however the bytes were cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwire.errors import ProtocolError
from pgwire.framing import COLLECTED_BYTES_MAX, Frame, Scanner
from pgwire.messages import message

KINDS = b"DZNCEGW"
TOLD = b"ZC"
COLLECTED = b"NE"

messages = st.lists(st.tuples(st.sampled_from(KINDS), st.binary(max_size=40)), max_size=12)


def feed_cut(stream: bytes, cuts: list[int]) -> tuple[list[tuple[int, int, int, bytes]], Scanner, int]:
    """Feed *stream* cut at *cuts*; return the frames with offsets in the stream, the scanner and the last boundary."""
    scanner = Scanner(told=TOLD, collected=COLLECTED)
    found: list[tuple[int, int, int, bytes]] = []
    boundary = 0
    edges = [0, *sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]
    for begin, end in itertools.pairwise(edges):
        frames = scanner.feed(memoryview(stream)[begin:end])
        found += [(frame.kind, frame.begin + begin, frame.end + begin, frame.payload) for frame in frames]
        if scanner.boundary > 0:
            boundary = begin + scanner.boundary
        assert scanner.at_boundary == (boundary == end)
    return found, scanner, boundary


@given(messages, st.lists(st.integers(0, 400)), st.integers(0, 40))
def test_any_chunking_gives_the_same_frames(parts: list[tuple[int, bytes]], cuts: list[int], cut_off: int) -> None:
    stream = b"".join(message(kind, payload) for kind, payload in parts)
    expected: list[tuple[int, int, int, bytes]] = []
    pos = 0
    for kind, payload in parts:
        end = pos + 5 + len(payload)
        if kind in TOLD + COLLECTED:
            expected.append((kind, pos, end, payload if kind in COLLECTED else b""))
        pos = end
    found, scanner, boundary = feed_cut(stream, cuts)
    assert found == expected
    assert boundary == len(stream)
    assert scanner.last_kind == (parts[-1][0] if parts else 0)
    found_byte_by_byte, _, _ = feed_cut(stream, list(range(len(stream))))
    assert found_byte_by_byte == expected
    # A stream that ends in the middle of a message ends behind the last complete one.
    torn = stream[: max(0, len(stream) - cut_off)]
    complete = 0
    for _, payload in parts:
        if complete + 5 + len(payload) > len(torn):
            break
        complete += 5 + len(payload)
    assert feed_cut(torn, cuts)[2] == complete


def test_missing_counts_what_the_message_lacks() -> None:
    scanner = Scanner()
    scanner.feed(message(ord("D"), bytes(100))[:30])
    assert scanner.missing == 75
    assert not scanner.at_boundary
    scanner.feed(bytes(75))
    assert scanner.at_boundary
    assert scanner.missing == 0


def test_size_limits_how_much_of_a_shared_buffer_is_read() -> None:
    buffer = bytearray(100)
    data = message(ord("Z"), b"I")
    buffer[: len(data)] = data
    scanner = Scanner(collected=b"Z")
    assert scanner.feed(buffer, len(data)) == [Frame(ord("Z"), 0, 6, b"I")]
    assert scanner.at_boundary


@pytest.mark.parametrize("length", [0, 3, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("cut", [5, 2])
def test_an_impossible_length_is_refused(length: int, cut: int) -> None:
    scanner = Scanner()
    data = b"D" + length.to_bytes(4, "big")
    if cut < len(data):
        assert scanner.feed(data[:cut]) == []
    with pytest.raises(ProtocolError, match="invalid message length"):
        scanner.feed(data[cut:] if cut < len(data) else data)


def test_a_collected_payload_is_bounded() -> None:
    scanner = Scanner(collected=b"N")
    data = message(ord("N"), bytes(COLLECTED_BYTES_MAX * 2))
    frames = [frame for begin in range(0, len(data), 5000) for frame in scanner.feed(data[begin : begin + 5000])]
    assert [len(frame.payload) for frame in frames] == [COLLECTED_BYTES_MAX]
    assert scanner.at_boundary
