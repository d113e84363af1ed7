"""Event files contain the metrics of a run, in the format of TensorBoard."""

import json
import struct

import pytest

from densenet_jax.train.tensorboard import event_log


def read_events(directory):
    """Returns the events of every file in `directory`, in TensorBoard's order; checks checksums."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    from tensorboardX.record_writer import masked_crc32c

    events = []
    for path in sorted(directory.iterdir()):
        left = path.read_bytes()
        while left:
            header, (length, checksum) = left[:8], struct.unpack("<QI", left[:12])
            assert checksum == masked_crc32c(header)
            data, left = left[12 : 12 + length], left[12 + length :]
            assert struct.unpack("<I", left[:4]) == (masked_crc32c(data),)
            events.append(event_pb2.Event.FromString(data))
            left = left[4:]
    return events


def scalars(events):
    """Returns {(tag, step): value}; a later event replaces an earlier one."""
    return {(v.tag, event.step): v.simple_value for event in events for v in event.summary.value}


def test_metrics_of_a_run_are_logged(finished_run):
    found = scalars(read_events(finished_run / "tensorboard"))
    lines = map(json.loads, (finished_run / "metrics.jsonl").read_text().splitlines())
    expected = {(name, line["step"]): line[name] for line in lines for name in line}
    expected = {key: value for key, value in expected.items() if key[0] != "step"}
    assert found == pytest.approx(expected)


def test_a_resumed_run_replaces_the_events_of_repeated_epochs(tmp_path):
    directory = tmp_path / "tensorboard"
    for first_step in (0, 300):
        with event_log(directory, first_step) as log:
            # The first line creates the file.
            assert len(list(directory.glob("*"))) == bool(first_step)
            for step in (first_step + 300, first_step + 600):
                log({"step": step, "epoch": step // 300, "train_loss": -2.5})
    events = read_events(directory)
    starts = [event.step for event in events if event.session_log.status == 1]
    assert starts == [1, 301]
    assert scalars(events)["train_loss", 900] == -2.5
    assert all(event.wall_time > 1.7e9 for event in events)
