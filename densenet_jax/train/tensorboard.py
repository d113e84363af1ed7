"""Event files for TensorBoard, written without a library.

The libraries that write event files import PyTorch or TensorFlow where those are installed. That
takes seconds, and ends a run if the installation is broken.
"""

import os
import socket
import struct
import time
from pathlib import Path

import jax

_SESSION_START = b"\x3a\x02\x08\x01"  # Field 7 of an Event: a SessionLog whose status is START.


class EventLog:
    """Logs the lines of metrics of one start of a run. Only the first process writes.

    The file is made with the first line. It tells TensorBoard to forget lines later than
    `first_step`, which an earlier start may have logged.
    """

    def __init__(self, folder: Path, first_step: int):
        # TensorBoard reads the files of a run in the order of their names, so the time comes first.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._path, self._first_step = folder / name, first_step

    def append(self, line: dict) -> None:
        """Adds the values of a line of metrics at its step."""
        if jax.process_index() > 0:
            return
        records = [_event(line["step"], _summary(line))]
        if not self._path.exists():
            version = _bytes_field(3, b"brain.Event:2")
            records = [_event(0, version), _event(self._first_step + 1, _SESSION_START), *records]
            self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(b"".join(map(_record, records)))


def _summary(line: dict) -> bytes:
    """Encodes field 5 of an Event: a tag and a float32 for each value of `line`."""
    values = [
        _bytes_field(1, name.encode()) + b"\x15" + struct.pack("<f", value)
        for name, value in line.items()
        if name != "step"
    ]
    return _bytes_field(5, b"".join(_bytes_field(1, value) for value in values))


def _event(step: int, content: bytes) -> bytes:
    """Encodes an Event (a protocol buffer): the time, the step and the encoded `content`."""
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + content


def _bytes_field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Encodes an integer in groups of seven bits, the lowest first."""
    groups = [number >> shift & 127 for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def _record(data: bytes) -> bytes:
    """Frames `data` as TFRecord files do: its length and their checksums."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    """Returns the CRC-32C of `data`, masked as TFRecord files require."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
