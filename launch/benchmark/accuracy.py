"""Measure how long training takes to reach a test error, against the same training in PyTorch.

    python -m launch.benchmark accuracy --config experiments/quickstart.py --test_error 2

Times whole commands, from their start to the first evaluation with a test error of at most
--test_error percent. The report also shows the time before the first step.

"ours" is `launch.train`, which reads the data and compiles. "torch" is eager PyTorch with channels
last. PyTorch receives our images, our untrained network, the order of examples and the learning
rate of each step. Both commands therefore take the same steps, up to rounding and augmentation, and
both save the best epoch.

The commands alternate. "ours" compiles in the first round and loads the compiled programs in later
rounds, as when a network is trained a second time. The machine should be idle.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from densenet_jax import weight_files, weights
from densenet_jax.data.batches import epoch_order
from densenet_jax.errors import InputError, RunError
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.train.trainer import Trainer
from launch import command
from launch.paths import ROOT

_POLL_SECONDS = 0.05


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, with_config=True, compiles=False)
    parser.add_argument("--test_error", type=float, required=True, metavar="PERCENT",
                        help="test error at which the clock stops")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, metavar="N",
                        help="runs of each command (default: %(default)s)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    args, overrides = parser.parse_known_args(argv)
    if args.rounds < 1:
        raise InputError(f"--rounds is {args.rounds}: it must be at least 1")
    if importlib.util.find_spec("torch") is None:
        raise InputError("torch is not installed: pip install torch")
    config = command.load_config(args.config, overrides)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        _prepare_peer(config, directory)
        ours = ["launch.train", "--config", args.config, *overrides]
        ours += ["--compile_cache", str(directory / "compiled")]
        commands = {"ours": ours, "torch": ["launch.benchmark.torch_train", str(directory)]}
        found: dict[str, list[dict]] = {name: [] for name in commands}
        for i in range(args.rounds):
            for name, arguments in commands.items():
                workdir = directory / f"{name}{i}"
                reached = _reach(args.test_error, [*arguments, "--workdir", str(workdir)], workdir)
                found[name].append(reached)
                print(
                    f"round {i + 1}/{args.rounds}: {name} {_text(reached)}",
                    file=sys.stderr,
                    flush=True,
                )
    print(_table(found, args))
    if args.json:
        print(json.dumps(found))


def _prepare_peer(config: ConfigDict, directory: Path) -> None:
    """Writes all inputs of the PyTorch peer to `directory`.

    Raises InputError if the peer lacks something that `config` asks for.
    """
    trainer = Trainer(config)
    network, data = trainer.model_config, trainer.data
    is_plain = config.loss == "cross_entropy" and not (
        config.label_smoothing or config.learning_rate_multipliers
    )
    if (
        not isinstance(network, DenseNetConfig)
        or network.dropout_rate
        or data.streamed
        or not is_plain
    ):
        raise InputError(
            "the PyTorch peer trains only DenseNets without dropout, with plain cross-entropy, on "
            "data sets that fit in memory: choose another config"
        )
    orders = [
        epoch_order(config.seed, epoch, len(data.train), config.batch_size, config.data.drop_last)
        for epoch in range(config.epochs)
    ]
    rates = [
        float(trainer.learning_rate(i)) for i in range(config.epochs * trainer.steps_per_epoch)
    ]
    splits = {
        f"{split}_{kind}": getattr(getattr(data, split), kind)
        for split in ("train", "test")
        for kind in ("images", "labels")
    }
    np.savez(directory / "data.npz", orders=np.stack(orders), rates=rates, **splits)
    weight_files.write(directory / "weights.safetensors", weights.to_torch(trainer.untrained()))
    fields = ("growth_rate", "bottleneck", "compression", "stem", "in_channels", "num_classes")
    recipe = {
        "network": {field: getattr(network, field) for field in fields}
        | {"blocks": network.blocks, "stem_features": network.stem_features},
        "mean": data.mean,
        "std": data.std,
        "padding": config.data.crop_padding if config.data.augment else 0,
        "flip": config.data.augment and config.data.flip,
        "momentum": config.momentum,
        "nesterov": config.nesterov,
        "weight_decay": config.weight_decay,
        "eval_batch_size": config.eval_batch_size,
        "seed": config.seed,
    }
    (directory / "recipe.json").write_text(json.dumps(recipe))
    trainer.close()


def _reach(test_error: float, arguments: list[str], workdir: Path) -> dict:
    """Runs a training command until an evaluation finds at most `test_error` percent.

    Returns the seconds until that evaluation ("seconds") and until training began ("before"), and
    the epoch. "seconds" and "epoch" are None if the command ended without reaching `test_error`.
    """
    started = time.perf_counter()
    before: float | None = None
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    metrics = workdir / "metrics.jsonl"
    try:
        while True:
            ended = process.poll() is not None
            seconds = time.perf_counter() - started
            # Both commands make their directory when they begin to train.
            if before is None and workdir.exists():
                before = seconds
            lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
            for line in (json.loads(line) for line in lines if line.endswith("\n")):
                if line.get("test_error", 100) <= test_error:
                    return {"seconds": seconds, "before": before, "epoch": line["epoch"]}
            if ended:
                if process.returncode:
                    raise RunError(process.stderr.read().strip().split("\n")[-1])
                return {"seconds": None, "before": before, "epoch": None}
            time.sleep(_POLL_SECONDS)
    finally:
        process.kill()
        process.communicate()


def _median(rounds: list[dict], key: str, less: str | None = None) -> float:
    """Returns the median of the value of `key`, minus the value of `less` if given."""
    return statistics.median(r[key] - (r[less] if less else 0) for r in rounds)


def _text(reached: dict) -> str:
    if reached["seconds"] is None:
        return "did not reach the test error"
    return (
        f"{reached['seconds']:.1f} s ({reached['before']:.1f} before the first step), "
        f"epoch {reached['epoch']}"
    )


def _table(found: dict[str, list[dict]], args: argparse.Namespace) -> str:
    """Returns the times of every round and their ratios as text."""
    lines = [f"{args.config}: to a test error of {args.test_error:g} %, whole commands"]
    for name, rounds in found.items():
        lines.append(f"{name:6} {'; '.join(map(_text, rounds))}")
    for when, part in (("the first round", slice(1)), ("later rounds", slice(1, None))):
        ours, torch = (rounds[part] for rounds in found.values())
        if not ours or None in (reached["seconds"] for reached in ours + torch):
            continue
        whole = _median(torch, "seconds") / _median(ours, "seconds")
        steps = _median(torch, "seconds", "before") / _median(ours, "seconds", "before")
        lines.append(
            f"torch takes {whole:.2f} times as long as ours in {when}, {steps:.2f} times from the "
            "first step on"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(command.run(main))
