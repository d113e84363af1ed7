"""The table of networks."""

import json
import re
from pathlib import Path

import pytest

from densenet_jax.models.catalog import list_models
from launch import command, models

PAGE = Path(__file__).parents[2] / "densenet_jax" / "models" / "README.md"


def run(capsys, *arguments):
    return command.run(models.main, list(arguments)), *capsys.readouterr()


def test_a_row_for_each_set_of_weights(capsys):
    status, output, _ = run(capsys, "densenet121", "--json")
    first, second = json.loads(output)
    assert status == 0 and (first["params"], second["params"]) == (7_978_856,) * 2
    assert (first["weights"], first["input_size"], first["top1"]) == (
        "densenet121.ra_in1k", 288, 76.486
    )  # fmt: skip
    assert second["macs"] == 2_834_161_664 and second["top5"] == 92.158


def test_a_name_in_the_notation_of_the_papers(capsys):
    status, output, _ = run(capsys, "densenet_bc_k12_d22")
    header, row = output.splitlines()
    assert status == 0 and re.match(r"network +parameters +MACs +input", header)
    assert re.fullmatch(r"densenet_bc_k12_d22 +71,686 +\d\.\d\d G +32", row)


def test_an_unknown_name(capsys):
    status, output, errors = run(capsys, "densenet_121")
    assert (
        (status, output) == (2, "")
        and "did you mean 'densenet121'?" in errors
        and errors.count("\n") == 1
    )


def test_the_page_lists_every_network():
    page = PAGE.read_text()
    assert all(f"| {name} | " in page for name in list_models())


@pytest.mark.slow
def test_the_page_has_the_output(capsys):
    status, output, _ = run(capsys, "--markdown")
    assert status == 0 and output in PAGE.read_text()
