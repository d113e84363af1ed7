"""A run that is killed repeatedly ends like an undisturbed run."""

import pytest
from torture import torture


def check(report):
    assert report["metrics_are_equal"] and report["arrays_are_equal"]
    assert report["left_over"] == []
    assert report["kills"]["inside a save"] >= 1


def test_a_run_survives_three_kills(tmp_path):
    check(torture(tmp_path, kills=3))


@pytest.mark.slow
def test_a_run_survives_twenty_kills(tmp_path):
    check(torture(tmp_path, kills=20, seed=1))
