"""Pickles that need too much memory or time, and sound pickles at each limit."""

import io
import pickle
import struct
import subprocess

import pytest

from densenet_jax import pickles

NESTED = b"\x80\x02)%s."  # Tuples in tuples.


def check(data):
    file = io.BytesIO(data)
    pickles.check(file)
    assert file.tell() == 0


def refuse(data, message):
    with pytest.raises(ValueError, match=message):
        check(data)


@pytest.mark.parametrize("protocol", range(6))
def test_sound_pickles(protocol):
    shared = (1, "two", 3.0, None)
    values = [[], {}, (), {1, 2}, frozenset([3]), [shared] * 1000, {"a": {"b": [b"c", 2**80]}}]
    values += [range(3), complex(1), bytearray(b"d"), list(range(5000)), Exception("e")]
    check(pickle.dumps(values, protocol))
    check(pickle.dumps(subprocess.CompletedProcess(["a"], 0), protocol))


def test_opcodes(monkeypatch):
    monkeypatch.setattr(pickles, "MAX_OPCODES", 100)
    check(b"\x80\x02" + b"}" * 98 + b".")
    refuse(b"\x80\x02" + b"}" * 99 + b".", "asks for too much memory")


def test_depth():
    check(NESTED % (b"\x85" * (pickles.MAX_DEPTH - 1)))
    refuse(NESTED % (b"\x85" * (pickles.MAX_DEPTH + 1)), "nested more than 500 deep")
    lists = b"\x80\x02" + b"](" * 600 + b"N" + b"e" * 600 + b"."
    refuse(lists, "nested more than 500 deep")
    # A long list is built in pieces and is not deep.
    check(b"\x80\x02]" + b"(NNe" * 1000 + b".")


def test_tuples_whose_hash_would_crash_the_process():
    refuse(b"\x80\x02})" + b"\x85" * 10**6 + b"Ns.", "nested more than 500 deep")


def test_objects(monkeypatch):
    """Each tuple contains the previous tuple twice, so hashing the last takes 2 ** 60 steps."""
    refuse(NESTED % (b"2\x86" * 60), "asks for too much memory")
    monkeypatch.setattr(pickles, "MAX_OBJECTS", 15)
    check(NESTED % (b"2\x86" * 3))
    refuse(NESTED % (b"2\x86" * 4), "asks for too much memory")


@pytest.mark.parametrize(
    "put", [b"p1073741824\n", b"r" + struct.pack("<I", 2**31)], ids=["text", "binary"]
)
def test_huge_numbers_of_objects(put):
    check(b"\x80\x02}q\xff.")
    refuse(b"\x80\x02}" + put + b".", "asks for too much memory")


@pytest.mark.parametrize(
    "data",
    [b"", b"\x80\x02X\x03\x00\x00", b"\x80\x02N", b"\x80\x05\x96" + struct.pack("<Q", 2**40)],
)
def test_truncated_pickles(data):
    with pytest.raises(EOFError, match="it is cut off"):
        check(data)


@pytest.mark.parametrize("data", [b"\x80\x02u.", b"\x80\x02t.", b"\x80\x02\x86.", b"h\x05."])
def test_opcodes_that_do_not_fit_together(data):
    refuse(data, "do not fit together")


def test_many_marks_are_fast():
    """Searching for the last mark would take minutes."""
    check(b"\x80\x02" + b"N" * 30_000 + b"(t" * 30_000 + b".")
