"""The library changes nothing in the process of its user."""

import json

import small


def test_importing_and_using_the_library_changes_nothing_in_the_process(tmp_path):
    process = small.start("tests/side_effects.py", tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    found = json.loads(output)
    assert found["changes"] == {}
    assert {"densenet_jax.data.random_crop", "densenet_jax.analysis.curves"} <= {*found["modules"]}
    # The script really drew figures and wrote a log for TensorBoard.
    assert {path.suffix for path in tmp_path.glob("figure.*")} == {".png", ".svg", ".pdf"}
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
