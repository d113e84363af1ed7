"""Tests `python -m launch.report figN`: every figure, with and without runs."""

import csv
import json
import re

import pytest
import small

from densenet_jax.train.config import flatten
from experiments import figures
from experiments.sweeps import forms
from launch import command
from launch.report import __main__ as report

FIGURES = ("fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "fig11", "fig12")
MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF"}
QUICK = "Measured: 10,000 images of fashion_mnist, 3 epochs"


@pytest.fixture
def drawn(tmp_path):
    """Draws a figure of the runs in a directory; returns the lines of its CSV."""

    def draw(name, runs=None):
        out = tmp_path / "report"
        argv = [name, "--out", str(out), *(["--runs", str(runs)] if runs else [])]
        assert command.run(report.main, argv) == 0
        for kind, mark in MAGIC.items():
            picture = (out / f"{name}.{kind}").read_bytes()
            assert picture.startswith(mark) and len(picture) > 8_000
        with (out / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    return draw


@pytest.fixture
def runs(tmp_path):
    directory = tmp_path / "runs"
    directory.mkdir()
    return directory


def measured(lines, panel=None):
    """Returns (protocol, curve, x, y, std, seeds) of measured points, in one panel or in all."""
    return [
        (line["protocol"], line["curve"], float(line["x"]), float(line["y"]),
         float(line["std"]) if line["std"] else None, int(line["seeds"]))
        for line in lines
        if line["seeds"] != "0" and panel in (None, line["panel"])
    ]  # fmt: skip


@pytest.mark.slow
def test_all_figures_without_runs_show_published_points(tmp_path, capsys):
    out = tmp_path / "report"
    assert command.run(report.main, ["figures", "--out", str(out)]) == 0
    output = capsys.readouterr().out
    for name in FIGURES:
        assert f"{name}: " in output and (out / f"{name}.pdf").stat().st_size > 8_000
    assert (out / "contact_sheet.png").stat().st_size > 50_000
    points = {
        "fig8": [figures.GROWTH_RATE, figures.BOTTLENECK, figures.COMPRESSION],
        "fig10": 2 * [figures.PARTIAL_CONNECTIVITY],
        "fig12": [figures.POST_ACTIVATION],
    }
    for name, panels in points.items():
        with (out / f"{name}.csv").open() as file:
            lines = list(csv.DictReader(file))
        assert not measured(lines)
        found = sorted(float(line["y"]) for line in lines)
        assert found == sorted(p.error for curves in panels for c in curves for p in c.points)


def test_drawing_twice_gives_the_same_files_with_the_published_points(drawn, tmp_path):
    lines = drawn("fig12")
    assert not measured(lines)
    found = sorted(float(line["y"]) for line in lines)
    assert found == sorted(p.error for c in figures.POST_ACTIVATION for p in c.points)
    first = {kind: (tmp_path / "report" / f"fig12.{kind}").read_bytes() for kind in MAGIC}
    drawn("fig12")
    assert first == {k: (tmp_path / "report" / f"fig12.{k}").read_bytes() for k in MAGIC}


@pytest.mark.slow
def test_quick_runs_have_separate_panels(drawn, runs):
    for seed, error in enumerate((20.0, 21.0, 22.0)):
        small.finish(runs / f"{seed}", error, forms.quick(), seed=seed, params=50_000)
    changes = {"model.connectivity": "logarithmic", "params": 40_000}
    small.finish(runs / "log", 23.0, forms.quick(), **{"model.depth": 28} | changes)
    # Two networks that are not in the figure.
    small.finish(runs / "other", 1.0, forms.quick(), **{"model.growth_rate": 5})
    small.finish(runs / "span", 1.0, forms.quick(), **{"model.connectivity": "span"})
    for seed, error in enumerate((20.0, 21.0, 22.0)):
        changes = {"model.depth": 28, "seed": seed, "params": 50_000}
        small.finish(runs / f"default{seed}", error, forms.quick(), **changes)
    found = measured(drawn("fig10", runs), "against parameters")
    [(row, name, x, y, std, seeds), (_, log, *_, log_error, log_std, one)] = found
    assert row.startswith(QUICK) and name == "all earlier layers" and log == "logarithmic"
    assert (x, y, std, seeds) == (0.05, 21.0, 1.0, 3)
    assert (log_error, log_std, one) == (23.0, None, 1)


def test_each_protocol_has_a_separate_row(drawn, runs):
    protocols = ({}, {"epochs": 20}, {"weight_decay": 0.0}, {"official": False})
    for i, changes in enumerate(protocols):
        small.finish(runs / f"{i}", 20.0, forms.quick(), **{"model.depth": 16} | changes)
    rows = {row for row, *_ in measured(drawn("fig12", runs))}
    assert len(rows) == 4
    for change in (" 20 epochs", " weight decay 0.0", " not the official data"):
        assert sum(change in row for row in rows) == 1


@pytest.mark.parametrize(
    ("changes", "is_reproduction"),
    [
        pytest.param({}, True, marks=pytest.mark.slow),
        ({"seed": 3, "model.remat": "layer", "eval_every_epochs": 10}, True),
        pytest.param({"epochs": 10}, False, marks=pytest.mark.slow),
        ({"official": False}, False),
    ],
)
def test_runs_by_the_papers_protocol_are_beside_its_points(drawn, runs, changes, is_reproduction):
    settings = {"model.block_config": figures.DEPTHS["A"], "model.growth_rate": 8}
    small.finish(runs / "run", 45.5, forms.imagenet(), params=700_000, **settings | changes)
    [(row, name, flops, error, *_)] = measured(drawn("fig8", runs))
    assert row.startswith("As published") == is_reproduction
    assert (name, error) == ("k = 8", 45.5)
    assert flops == pytest.approx(0.367, abs=5e-4)


@pytest.mark.slow
def test_memory_of_runs_is_plotted(drawn, runs):
    config = forms.quick()
    measurements = {"step_temp_bytes": 2e9}
    small.finish(
        runs / "cpu", 20.0, config, extra=measurements, **{"model.name": "densenet_bc_k12_d16"}
    )
    measurements |= {"peak_memory_bytes": 3e9}
    small.finish(runs / "gpu", 20.0, config, extra=measurements, **{"model.name": "preresnet11"})
    lines = drawn("fig5", runs)
    found = {name: x for _, name, x, *_ in measured(lines, "against memory")}
    assert found == {"DenseNet-BC": 2.0, "ResNet": 3.0}


@pytest.mark.slow
def test_figure_7_shows_steps_measured_and_planned(drawn, runs):
    for remat, size in (("none", 3e9), ("concat", 2e9)):
        config = command.load_config(str(small.ROOT / "experiments/sweeps/memory.py"))
        measurements = {"step_temp_bytes": size, "images_per_second": 32.0}
        changes = {"model.depth": 40, "model.remat": remat}
        small.finish(runs / remat, 90.0, config, extra=measurements, params=176_000, **changes)
    small.finish(runs / "other", 20.0, forms.quick(), extra={"step_temp_bytes": 1e9})
    plan = {"model": "densenet_bc_k12_d100", "settings": {"block_config": [16, 16, 16]},
            "target": "h100", "batch_size": 64, "dtype": "float32", "remat": "layer",
            "params": 769_162, "memory": {"temp_bytes": 4e8}}  # fmt: skip
    (runs / "plan").mkdir()
    (runs / "plan" / "plan.json").write_text(json.dumps(plan))
    lines = drawn("fig7", runs)
    found = {(re.sub(r" \d+ of \d+ ", " ", row.split(",")[0]), name): (x, y)
             for row, name, x, y, *_ in measured(lines, "memory against depth")}  # fmt: skip
    assert found == {
        ("Compiled for h100", "remat=layer"): (100.0, 0.4),
        ("Measured on CPU cores", "remat=none"): (40.0, 3.0),
        ("Measured on CPU cores", "remat=concat"): (40.0, 2.0),
    }
    assert [y for *_, y, _, _ in measured(lines, "time")] == [2.0, 2.0]
    # Runs on synthetic data, whose labels are noise, have no meaningful error.
    names = {name for row, name, *_ in measured(drawn("fig4", runs)) if "synthetic" in row}
    assert not names


def test_training_curves_show_the_metrics(drawn, runs):
    config = command.load_config(str(small.ROOT / "experiments/sweeps/training_curves.py"))
    small.finish(runs / "run", 10.0, config, **{"model.name": "densenet_bc_k12_d22"})
    with (runs / "run" / "metrics.jsonl").open("w") as file:
        for epoch, error in ((1, 30.0), (2, 20.0), (3, 10.0)):
            file.write(json.dumps({"step": epoch, "epoch": epoch, "test_error": error}) + "\n")
    found = measured(drawn("fig4", runs), "training curves")
    assert [(x, y) for _, _, x, y, *_ in found] == [(1.0, 30.0), (2.0, 20.0), (3.0, 10.0)]
    assert found[0][1] == "DenseNet-BC, densenet_bc_k12_d22"


@pytest.mark.slow
def test_heat_map_of_a_run(drawn, runs):
    """A real run of the figure's network is drawn from its checkpoint."""
    from densenet_jax.train.fit import fit

    config = command.load_config(str(small.ROOT / "experiments/sweeps/heat_map.py"))
    config.update_from_flattened_dict(
        {"data.name": "digits", "data.examples": 128, "epochs": 1, "eval_every_epochs": 1,
         "model.name": "densenet_k12_d40"}
    )  # fmt: skip
    fit(config, runs / "run")
    lines = drawn("fig6", runs)
    entries = {
        (int(line["block"]), int(line["source"]), int(line["reader"])): float(line["weight"])
        for line in lines
        if line["protocol"].startswith("Measured")
    }
    # Each block has the triangle of a 13 x 13 array.
    assert len(entries) == 3 * 13 * 14 / 2
    assert min(entries.values()) == 0 and max(entries.values()) == 1


def test_figure_6_says_why_it_skips_a_run(runs, drawn, capsys):
    small.finish(runs / "other", 14.0, forms.quick(), **{"model.growth_rate": 4})
    # The network of the figure by another name, without a checkpoint.
    changes = {"model.name": "densenet_bc_k12_d100", "model.bottleneck": 0, "model.depth": 40}
    changes |= {"model.compression": 1.0, "model.stem_features": 16, "model.growth_rate": 12}
    small.finish(runs / "without", 14.0, forms.quick(), **changes)
    assert all(line["protocol"] == "As published" for line in drawn("fig6", runs))
    other, without = capsys.readouterr().err.splitlines()
    assert other == (
        f"skipped: {runs / 'other'} trained densenet_bc_k4_d22, but fig6 needs densenet_k12_d40, "
        "the plain DenseNet with L=40 and k=12"
    )
    assert without.startswith("skipped: ") and str(runs / "without") in without


@pytest.mark.slow
def test_profile(finished_run, tmp_path, capsys):
    out = tmp_path / "report"
    argv = ["profile", "--runs", str(finished_run), "--out", str(out)]
    assert command.run(report.main, argv) == 0
    assert "gradients of the first half" in capsys.readouterr().out
    with (out / f"profile-{finished_run.name}.csv").open() as file:
        lines = list(csv.DictReader(file))
    layers = [line["layer"] for line in lines if line["what"] == "gradient norm"]
    assert layers[0] == "conv0" and layers[-1] == "classifier"
    assert all(float(line["value"]) > 0 for line in lines)
    assert (out / f"profile-{finished_run.name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("path", sorted((small.ROOT / "experiments/sweeps").glob("*.py")), ids=str)
def test_quick_sweeps_suit_a_laptop(path):
    """Small images and few epochs, so that one CPU is enough."""
    if path.name == "forms.py":
        return
    config = flatten(command.load_config(str(path)))
    assert config["data.name"] in ("fashion_mnist", "digits", "synthetic")
    assert config["epochs"] <= 8 and config["data.examples"] <= 10_000


def test_damaged_plan_is_an_error(runs, tmp_path, capsys):
    (runs / "plan.json").write_text("{")
    argv = ["fig7", "--runs", str(runs), "--out", str(tmp_path / "out")]
    assert command.run(report.main, argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "plan.json is damaged" in error
