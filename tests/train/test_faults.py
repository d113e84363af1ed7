"""A run survives a kill, a loss of power or an error at any of its file-system calls."""

import pytest
from faults import start


@pytest.mark.slow
def test_every_state_ends_like_an_undisturbed_run():
    report = start("states", 1)
    for run in report.values():
        for kind in ("killed", "without power"):
            assert run[kind]["what is wrong"] == []
            assert run[kind]["ended"] >= 3
            assert "refused" not in run[kind]


@pytest.mark.slow
def test_every_failure_is_one_sentence_and_the_run_can_be_resumed():
    report = start("errors", 1)
    for run in report.values():
        assert run["with the error"]["what is wrong"] == []
        assert run["with the error"]["refused"] >= 3
        assert run["resumed"]["ended"] == run["with the error"]["refused"]
