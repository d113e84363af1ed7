"""Measure how long training takes to reach an accuracy, against the same training in PyTorch.

    python -m launch.benchmark accuracy --config experiments/quickstart.py --test_error 2

Both are whole commands, from their start to the first evaluation that finds a test error of at most
--test_error percent; how much of that was before the first step is told as well. Ours is
`launch.train`, which reads the data and compiles. PyTorch, eager and with channels last, is given
everything: images, our untrained network, the order of examples and the learning rate of each step;
so both take the same steps, up to rounding and augmentation, and both save the best epoch. They
take turns. In the first round ours has compiled nothing yet; in the others it finds what it
compiled, as whoever trains a network a second time. The machine should be idle.
"""

import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from densenet_jax import weight_files, weights
from densenet_jax.data.batches import epoch_order
from densenet_jax.errors import InputError, RunError
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.train.trainer import Trainer
from launch import command

ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.05


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, with_config=True, compiles=False)
    parser.add_argument("--test_error", type=float, required=True, metavar="PERCENT")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a JSON object, last")
    args, overrides = parser.parse_known_args(argv)
    if args.rounds < 1:
        raise InputError(f"--rounds is {args.rounds}: it must be at least 1.")
    if importlib.util.find_spec("torch") is None:
        raise InputError("torch is not installed: pip install 'densenet_jax[bench]'")
    config = command.load_config(args.config, overrides)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        _prepare_peer(config, folder)
        ours = ["launch.train", "--config", args.config, *overrides]
        ours += ["--compile_cache", str(folder / "compiled")]
        commands = {"ours": ours, "torch": ["launch.benchmark.torch_train", str(folder)]}
        found = {name: [] for name in commands}
        for i in range(args.rounds):
            for name, arguments in commands.items():
                workdir = folder / f"{name}{i}"
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


def _prepare_peer(config, folder: Path) -> None:
    """Leaves everything that PyTorch needs in `folder`. InputError for what it has no way of."""
    trainer = Trainer(config)
    network, data = trainer.model_config, trainer.data
    plain = config.loss == "cross_entropy" and not (
        config.label_smoothing or config.learning_rate_multipliers or network.dropout_rate
    )
    if not isinstance(network, DenseNetConfig) or data.streamed or not plain:
        raise InputError(
            "the peer trains DenseNets on small sets, by cross-entropy and without dropout."
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
    np.savez(folder / "data.npz", orders=np.stack(orders), rates=rates, **splits)
    weight_files.write(folder / "weights.safetensors", weights.to_torch(trainer.untrained()))
    fields = ("growth_rate", "bottleneck", "compression", "stem", "in_channels", "num_classes")
    job = {
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
    (folder / "job.json").write_text(json.dumps(job))
    trainer.close()


def _reach(test_error: float, arguments: list[str], workdir: Path) -> dict:
    """When training began and an evaluation found `test_error` or less; None: it ended before."""
    started, before = time.perf_counter(), None
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = workdir / "metrics.jsonl"
    try:
        while True:
            ended = process.poll() is not None
            seconds = time.perf_counter() - started
            if before is None and workdir.exists():  # Both make it when they begin to train.
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
    return statistics.median(r[key] - (r[less] if less else 0) for r in rounds)


def _text(reached: dict) -> str:
    if reached["seconds"] is None:
        return "did not come so far"
    return (
        f"{reached['seconds']:.1f} s ({reached['before']:.1f} before the first step), "
        f"epoch {reached['epoch']}"
    )


def _table(found: dict[str, list[dict]], args) -> str:
    lines = [f"{args.config}: to a test error of {args.test_error:g} %, whole commands"]
    for name, rounds in found.items():
        told = "; ".join(map(_text, rounds))
        lines.append(f"{name:6} {told}")
    for when, part in (("its first round", slice(1)), ("the others", slice(1, None))):
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
