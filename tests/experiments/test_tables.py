"""Every row of Tables 2 and 3 has a documented config that can be trained."""

import ast
import functools
import math
import re

import jax
import numpy as np
import published_sets
import pytest
import small
from cases import slow_except
from PIL import Image

from densenet_jax.analysis import targets
from densenet_jax.analysis.counts import count_macs, count_params
from densenet_jax.analysis.plan import most_images_per_second
from densenet_jax.data import sources
from densenet_jax.data.facts import FACTS
from densenet_jax.data.preprocessing import preprocess
from densenet_jax.errors import InputError
from densenet_jax.models.all_cnn import AllCNNConfig
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.fractalnet import FractalNetConfig
from densenet_jax.models.highway import HighwayConfig
from densenet_jax.models.nin import NINConfig
from densenet_jax.models.resnet import ResNetConfig
from densenet_jax.train.config import check_config, model_settings
from densenet_jax.train.trainer import Trainer
from experiments import published
from launch.command import load_config

TABLES = small.ROOT / "experiments" / "cvpr2017"
CELLS = [(row, column) for row, facts in published.TABLE2.items() for column in facts.errors]
# One column of each row, so that every column occurs.
SOME_CELLS = [
    (row, list(facts.errors)[i % len(facts.errors)])
    for i, (row, facts) in enumerate(published.TABLE2.items())
]
ALL_BUT_SOME = [cell for cell in CELLS if cell not in SOME_CELLS]

# Compiling a step takes long: a few families, with and without dropout, and each data set.
FAST_CELLS = [("densenet_k12_d40", "c10")]
# Large networks take long to trace.
FAST_HEADS = (
    *("nin", "all_cnn", "dsn", "highway19", "fractalnet21_dropout"),
    *("resnet110_huang", "stochastic_depth110", "wrn16_4_dropout", "preresnet164"),
    *("densenet_k12_d40", "densenet_bc_k12_d100"),
)

# Overrides that make a network of each family tiny.
TINY = {
    DenseNetConfig: {"growth_rate": 4, "block_config": (1, 1), "stem_features": 4},
    ResNetConfig: {"block_config": (1, 2), "widths": (4, 8), "stem_features": 4},
    NINConfig: {"mlpconv_widths": (4,) * 8},
    AllCNNConfig: {"stage_widths": (4, 4)},
    HighwayConfig: {"block_config": (1, 2), "widths": (4, 4), "head_features": 4},
    FractalNetConfig: {"columns": 2, "widths": (4, 4)},
}


def cell_config(row, column):
    return load_config(f"{TABLES}/table2/{row}.py:{column}")


def network(config):
    """Returns the config of the network that `config` trains."""
    facts = FACTS[config.data.name]
    settings = {"num_classes": facts.num_classes} | model_settings(config)
    return model_config(config.model.name, **settings)


def test_every_row_has_a_config():
    for table, rows in (("table2", published.TABLE2), ("table3", published.TABLE3)):
        assert {path.stem for path in (TABLES / table).glob("*.py")} == set(rows)


def test_some_cells_have_every_column():
    assert {column for _, column in SOME_CELLS} == set(published.COLUMNS)


def test_the_readme_has_the_published_numbers():
    lines = (small.ROOT / "experiments" / "README.md").read_text().splitlines()
    for rows, columns in (
        (published.TABLE2, published.COLUMNS),
        (published.TABLE3, published.TABLE3_COLUMNS),
    ):
        for row, facts in rows.items():
            values = [f"{facts.errors[c]:.2f}" if c in facts.errors else "" for c in columns]
            ours = [line for line in lines if line.startswith(f"| `{row}` |")]
            assert any(line.endswith(f"| {' | '.join(values)} |") for line in ours), row


@pytest.mark.parametrize(("row", "column"), CELLS)
def test_cells_follow_their_column(row, column):
    config = cell_config(row, column)
    check_config(config)
    name = {"c10": "cifar10", "c100": "cifar100", "svhn": "svhn"}[column.rstrip("+")]
    assert config.data.name == name and config.data.augment == column.endswith("+")
    if "densenet" in row:
        # Section 4.2: dropout only where training images are not augmented.
        assert (config.model.dropout_rate or 0) == (0 if column.endswith("+") else 0.2)


def test_no_two_cells_are_the_same_experiment():
    configs = {cell_config(row, column).to_json() for row, column in CELLS}
    assert len(configs) == len(CELLS)


@pytest.mark.parametrize("row", published.TABLE2)
def test_a_cell_that_the_table_lacks_is_refused(row):
    there = published.TABLE2[row].errors
    for column in [*(c for c in published.COLUMNS if c not in there), "c10++"]:
        with pytest.raises(InputError, match="choose one of") as caught:
            cell_config(row, column)
        assert all(known in str(caught.value) for known in there)


@pytest.mark.parametrize("row", slow_except(FAST_HEADS, [*published.TABLE2, *published.TABLE3]))
def test_heads_have_the_facts(row):
    """The facts are the command, the size of the network, the published errors and the cost."""
    table = "table2" if row in published.TABLE2 else "table3"
    path = TABLES / table / f"{row}.py"
    head = ast.get_docstring(ast.parse(path.read_text()))
    default = load_config(str(path))
    text = " ".join(head.split())
    assert f"--config experiments/cvpr2017/{table}/{row}.py" in text
    if table == "table3":
        counted = published.TABLE1[row].counted
        errors = published.TABLE3[row].errors
        assert (
            f"top-1 {errors['top1']:.2f} / {errors['top1_10crop']:.2f}, "
            f"top-5 {errors['top5']:.2f} / {errors['top5_10crop']:.2f}." in text
        )
        costs = {"": default}
        h100, tpu = (most_images(default, name) for name in ("h100", "tpu-v5e-8"))
        assert f"alone: {h100} images/s on an H100 in bfloat16, {tpu} on a TPU v5e-8." in text
    else:
        facts = published.TABLE2[row]
        counted = facts.counted
        assert f"{facts.method}{f', {facts.depth} layers' if facts.depth else ''}:" in text
        errors = ", ".join(f"{column} {error:.2f}" for column, error in facts.errors.items())
        assert f"by column: {errors}." in text
        if facts.params and f"{counted / 1e6:.1f}M" != facts.params:
            assert f"The paper prints {facts.params}" in text
        costs = {
            "CIFAR" if column.startswith("c") else "SVHN": cell_config(row, column)
            for column in reversed(facts.errors)
        }
    assert f"{counted:,} parameters" in text
    if row != "dsn":  # dsn has companion classifiers too.
        settings = model_settings(default) | {"num_classes": 1000 if table == "table3" else 10}
        assert count_params(model_config(default.model.name, **settings)) == counted
    for where, config in costs.items():
        assert f"{training_flop(config):.1e}".replace("e+", "e") + " FLOP" in text, where
        assert f"({config.epochs} epochs of {training_images(config):,} images)" in text


def training_images(config) -> int:
    sizes = FACTS[config.data.name].sizes
    return sum(n for part, n in sizes.items() if part != "test") - config.data.holdout


def training_flop(config) -> float:
    """Counts a multiply-add as two operations, and a training step as three passes."""
    side = FACTS[config.data.name].image_shape[0]
    macs = count_macs(network(config), side, side)
    return 6 * macs * config.epochs * training_images(config)


def most_images(config, name) -> str:
    config.dtype = "bfloat16"
    most = most_images_per_second(config, network(config), targets.find_target(name))
    assert most is not None
    return f"{round(most, -2):,.0f}"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Returns the root of tiny copies of each set, in the format of its authors."""
    root = tmp_path_factory.mktemp("sets")
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        parts = published_sets.make_parts({"train": 100, "test": 20}, num_classes=classes)
        files = published_sets.cifar_files(name, "binary", parts)
        directory = "cifar-10-batches-bin" if name == "cifar10" else "cifar-100-binary"
        published_sets.write_directory(root / name / directory, files)
    parts = published_sets.make_parts({"train": 60, "extra": 60, "test": 20})
    published_sets.write_svhn(root / "svhn", parts)
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for i in range(4):
            path = root / "imagenet" / split / ("n01440764", "n01443537")[i % 2] / f"{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (240 + 40 * i, 300, 3), np.uint8)
            Image.fromarray(pixels).save(path, "JPEG")
    return root


@pytest.fixture(scope="module")
def read(sets):
    """Returns a cached function that reads and preprocesses a set, because whitening is slow."""

    @functools.cache
    def read(name, holdout, kind):
        return preprocess(sources.load(name, str(sets / name), holdout), kind)

    return read


def takes_two_steps(config, read):
    config.batch_size = 2
    config.model.bn_group_size = None
    if config.data.holdout:
        config.data.holdout = 30
    family = type(model_config(config.model.name))
    config.update_from_flattened_dict({f"model.{k}": v for k, v in TINY[family].items()})
    data = read(config.data.name, config.data.holdout, config.data.preprocessing)
    trainer = Trainer(config, data=data)
    state, sums = trainer.initial_state, trainer.totals()
    before = jax.tree.map(np.asarray, state.params)
    batches = trainer.epoch(0)
    for _ in range(2):
        state, sums = trainer.train(state, sums, next(batches), 0)
    trainer.close()
    assert int(state.step) == 2 and float(sums.examples) == 4
    assert math.isfinite(float(sums.loss)) and float(sums.loss) > 0
    moved = jax.tree.map(lambda old, new: not np.array_equal(old, new), before, state.params)
    assert np.mean(jax.tree.leaves(moved)) > 0.5


@pytest.mark.parametrize(("row", "column"), slow_except(FAST_CELLS, SOME_CELLS))
def test_every_row_trains_on_a_tiny_set(row, column, read):
    takes_two_steps(cell_config(row, column), read)


@pytest.mark.slow
@pytest.mark.parametrize(("row", "column"), ALL_BUT_SOME)
def test_every_cell_trains_on_a_tiny_set(row, column, read):
    takes_two_steps(cell_config(row, column), read)


@pytest.mark.slow
@pytest.mark.parametrize("row", published.TABLE3)
def test_every_row_of_table3_trains_on_a_tiny_set(row, read):
    takes_two_steps(load_config(f"{TABLES}/table3/{row}.py"), read)


def _abstract(tree, sharding):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding), tree
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        *(f"table2/{row}.py:{column}" for row, column in CELLS),
        *(f"table3/{row}.py" for row in published.TABLE3),
    ],
)
def test_every_cell_at_full_size(spec):
    """Traces the real training step without compiling it or reading data."""
    config = load_config(f"{TABLES}/{spec}")
    data = preprocess(sources.describe(config.data.name), config.data.preprocessing)
    trainer = Trainer(config, data=data, place=_abstract)
    state, sums = trainer.lower("train").out_info
    for leaf, old in zip(
        jax.tree.leaves(state), jax.tree.leaves(trainer.initial_state), strict=True
    ):
        assert leaf.shape == old.shape and leaf.dtype == old.dtype
    assert sums.loss.shape == ()
    row, column = re.fullmatch(r"table./(\w+)\.py:?(.*)", spec).groups()
    if not column.startswith("c100") and row != "dsn" and column != "svhn":
        facts = published.TABLE2.get(row) or published.TABLE1[row]
        assert trainer.params == facts.counted
