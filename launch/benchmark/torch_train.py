"""Training in PyTorch: the peer of `launch.benchmark accuracy`, which prepares FOLDER.

python -m launch.benchmark.torch_train FOLDER --workdir DIR
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
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workdir", type=Path)
    args = parser.parse_args()
    job = json.loads((args.folder / "job.json").read_text())
    data = np.load(args.folder / "data.npz")
    torch.manual_seed(job["seed"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = TorchDenseNet(types.SimpleNamespace(**job["network"]))
    network.load_state_dict(load_file(args.folder / "weights.safetensors"), strict=False)
    network = network.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=0.0,
        momentum=job["momentum"],
        weight_decay=job["weight_decay"],
        nesterov=job["nesterov"],
    )
    train, test = (
        (_images(data[f"{split}_images"], job).to(device), _labels(data, split).to(device))
        for split in ("train", "test")
    )
    args.workdir.mkdir(parents=True)  # Training begins.
    rates, best = iter(data["rates"].tolist()), float("inf")
    for epoch, order in enumerate(torch.from_numpy(data["orders"]).to(device), start=1):
        network.train()
        for indices in order:
            indices = indices[indices >= 0]  # Others are padding.
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad()
            images = _augment(train[0][indices], job)
            F.cross_entropy(network(images), train[1][indices]).backward()
            optimizer.step()
        line = {"epoch": epoch, "test_error": _error(network, *test, job["eval_batch_size"])}
        with (args.workdir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if line["test_error"] < best:
            best = line["test_error"]
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, args.workdir / "best.pt")


def _images(images: np.ndarray, job: dict) -> torch.Tensor:
    normalized = (images.astype(np.float32) - job["mean"]) / job["std"]
    channels_first = torch.from_numpy(normalized.astype(np.float32)).permute(0, 3, 1, 2)
    return channels_first.contiguous(memory_format=torch.channels_last)


def _labels(data, split: str) -> torch.Tensor:
    return torch.from_numpy(data[f"{split}_labels"].astype(np.int64))


def _augment(images: torch.Tensor, job: dict) -> torch.Tensor:
    """Flips half of the images, and shifts all."""
    if job["flip"]:
        flipped = torch.rand(len(images), device=images.device) < 0.5
        images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    padding = job["padding"]
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
def _error(network: TorchDenseNet, images, labels, batch_size: int) -> float:
    """In percent."""
    network.eval()
    pairs = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    wrong = sum((network(x).argmax(1) != y).sum().item() for x, y in pairs)
    return 100 * wrong / len(labels)


if __name__ == "__main__":
    main()
