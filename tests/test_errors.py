"""Messages have the right plural and no control characters."""

import logging

import pytest
import small

from densenet_jax.errors import InputError, counted, printable
from densenet_jax.train.fit import fit
from launch import command
from launch.report.__main__ import main as report
from launch.train import main as train


@pytest.mark.parametrize(
    "number, noun, text",
    [
        (0, "epoch", "0 epochs"),
        (1, "epoch", "1 epoch"),
        (2000, "training image", "2,000 training images"),
        (1, "class", "1 class"),
        (10, "class", "10 classes"),
    ],
)
def test_counted_nouns_have_the_right_number(number, noun, text):
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    "text, shown",
    [
        ("Grüße, 猫 🐈", "Grüße, 猫 🐈"),
        ("\x1b[31mred", r"\u001b[31mred"),
        ("a\rb\x9b2J\x7f\0", r"a\u000db\u009b2J\u007f\u0000"),
        ("a\nerror: b\t\u2028", r"a\u000aerror: b\u0009\u2028"),
        ("txt.\u202egpj\u2066", r"txt.\u202egpj\u2066"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == shown


def test_commands_print_no_control_characters(capsys):
    def fail(argv):
        raise InputError("a\x1b[2J\rb")

    assert command.run(fail) == 2
    assert capsys.readouterr().err == "error: a\\u001b[2J\\u000db\n"
    record = logging.LogRecord("a", logging.WARNING, "", 0, "%s is odd", ("\x1b[2J",), None)
    assert command.PrintableFormatter("%(message)s").format(record) == r"\u001b[2J is odd"


@pytest.mark.slow
def test_messages_of_one_epoch_of_one_step_use_the_singular(tmp_path, capsys):
    changes = {"epochs": 1, "batch_size": 1, "data.examples": 1, "data.holdout": 1436}
    fit(small.config(small.PLAIN | changes), tmp_path / "run")
    output = capsys.readouterr().out
    assert "1 training image, 360 test images; 1 epoch of 1 step on" in output
    argv = ["--config", str(small.QUICKSTART), "--workdir", str(tmp_path / "run")]
    argv += ["--compile_cache=off"]
    assert command.run(train, [*argv, *small.flags(small.PLAIN | changes)]) == 0
    assert " % after 1 epoch, " in capsys.readouterr().out
    assert command.run(report, ["sweep", "--runs", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert "1 run finished" in capsys.readouterr().out
