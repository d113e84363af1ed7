"""The training loop stays short to read."""

import route


def test_the_training_loop_enters_few_files_and_calls():
    found = route.measure()
    assert 0 < len(found.files) <= route.MOST_FILES, sorted(found.files)
    assert 0 < len(found.calls) - 1 <= route.MOST_CALLS, found.calls
    assert (found.calls[0], found.calls[-1]) == ("fit", "train_step")
