"""A run that is killed repeatedly ends like an undisturbed run."""

import pytest
from torture import torture


def check(report):
    assert report["metrics_are_equal"] and report["arrays_are_equal"]
    assert report["left_over"] == []
    assert report["kills"]["inside a save"] >= 1


# The first kill is inside a save.
@pytest.mark.slow
@pytest.mark.parametrize(("kills", "seed"), [(3, 0), (20, 1)])
def test_a_run_survives_kills(tmp_path, kills, seed):
    check(torture(tmp_path, kills, seed))
