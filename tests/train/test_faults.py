"""A run whose file-system calls fail, or that is killed at one of them."""

import pytest
from faults import start

# Each so many calls: a fast sample, and all of them.
SAMPLE = [97, pytest.param(1, marks=pytest.mark.slow)]


@pytest.mark.parametrize("what", ["killed", "power"])
@pytest.mark.parametrize("every", SAMPLE)
def test_every_state_ends_like_an_undisturbed_run(what, every):
    report = start(what, every)
    for counts in report.values():
        assert counts["what is wrong"] == []
        assert counts["ended"] >= 5
        assert "refused" not in counts


@pytest.mark.parametrize("every", SAMPLE)
def test_every_failure_is_one_sentence_and_the_run_can_be_resumed(every):
    report = start("errors", every)
    for counts in report.values():
        assert counts["what is wrong"] == []
        assert counts["with the error"]["refused"] >= 5
        assert counts["resumed"] == {"ended": counts["with the error"]["refused"]}
