"""Trains in PyTorch, as the peer in `launch.benchmark accuracy`, which prepares INPUTS.

python -m launch.benchmark.torch_train INPUTS --workdir DIR
"""

import argparse
import json
import types
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from launch.benchmark.torch_densenet import TorchDenseNet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--workdir", type=Path)
    args = parser.parse_args()
    recipe = json.loads((args.inputs / "recipe.json").read_text())
    data = np.load(args.inputs / "data.npz")
    torch.manual_seed(recipe["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = TorchDenseNet(types.SimpleNamespace(**recipe["network"]))
    network.load_state_dict(load_file(args.inputs / "weights.safetensors"), strict=False)
    network = network.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=0.0,
        momentum=recipe["momentum"],
        weight_decay=recipe["weight_decay"],
        nesterov=recipe["nesterov"],
    )
    train, test = (
        (_images(data[f"{split}_images"], recipe).to(device), _labels(data, split).to(device))
        for split in ("train", "test")
    )
    args.workdir.mkdir(parents=True)  # The benchmark takes this as the start of training.
    rates, best = iter(data["rates"].tolist()), float("inf")
    for epoch, order in enumerate(torch.from_numpy(data["orders"]).to(device), start=1):
        network.train()
        for indices in order:
            indices = indices[indices >= 0]  # -1 is padding.
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad()
            images = _augment(train[0][indices], recipe)
            F.cross_entropy(network(images), train[1][indices]).backward()
            optimizer.step()
        line = {"epoch": epoch, "test_error": _error(network, *test, recipe["eval_batch_size"])}
        with (args.workdir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if line["test_error"] < best:
            best = line["test_error"]
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, args.workdir / "best.pt")


def _images(images: np.ndarray, recipe: dict) -> torch.Tensor:
    normalized = (images.astype(np.float32) - recipe["mean"]) / recipe["std"]
    channels_first = torch.from_numpy(normalized.astype(np.float32)).permute(0, 3, 1, 2)
    return channels_first.contiguous(memory_format=torch.channels_last)


def _labels(data: np.lib.npyio.NpzFile, split: str) -> torch.Tensor:
    return torch.from_numpy(data[f"{split}_labels"].astype(np.int64))


def _augment(images: torch.Tensor, recipe: dict) -> torch.Tensor:
    """Flips a random half of the images and shifts every image."""
    if recipe["flip"]:
        flipped = torch.rand(len(images), device=images.device) < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    padding = recipe["padding"]
    if not padding:
        return images
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4)
    places = torch.randint(0, 2 * padding + 1, (len(images), 2)).tolist()
    crops = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(padded, places, strict=True)
    ]
    return torch.stack(crops).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def _error(
    network: TorchDenseNet, images: torch.Tensor, labels: torch.Tensor, batch_size: int
) -> float:
    """Returns the test error in percent."""
    network.eval()
    pairs = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    wrong = sum((network(x).argmax(1) != y).sum().item() for x, y in pairs)
    return 100 * wrong / len(labels)


if __name__ == "__main__":
    main()
