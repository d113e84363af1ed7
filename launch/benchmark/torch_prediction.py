"""Classifies a directory of pictures in PyTorch, as `launch.predict --json` does in JAX.

`launch.benchmark predict` runs this program as the peer of `launch.predict`.
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from densenet_jax.data.pictures import TORCHVISION, load
from launch.benchmark.torch_densenet import TorchDenseNet
from launch.benchmark.workload import densenet_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--weights")
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = TorchDenseNet(densenet_config(args.model))
    # The file has no `num_batches_tracked`.
    network.load_state_dict(load_file(args.weights), strict=False)
    network = network.eval().to(device).to(memory_format=torch.channels_last)
    mean, std = (torch.tensor(x, device=device) for x in (TORCHVISION.mean, TORCHVISION.std))
    paths = sorted(args.directory.iterdir())
    batches = [paths[i : i + args.batch_size] for i in range(0, len(paths), args.batch_size)]
    results = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, torch.inference_mode():
        following = [pool.submit(_read, path) for path in batches[0]]
        for i, batch in enumerate(batches):
            reading, after = following, batches[i + 1] if i + 1 < len(batches) else []
            following = [pool.submit(_read, path) for path in after]
            pixels = torch.from_numpy(np.stack([future.result() for future in reading]))
            images = ((pixels.to(device) - mean) / std).permute(0, 3, 1, 2)
            probabilities, labels = network(images).softmax(1).topk(5)
            for path, *best in zip(batch, labels.tolist(), probabilities.tolist(), strict=True):
                predictions = [
                    {"label": label, "probability": p} for label, p in zip(*best, strict=True)
                ]
                results.append({"image": str(path), "predictions": predictions})
    print(json.dumps(results))


def _read(path: Path) -> np.ndarray:
    return TORCHVISION.crop(load(path))


if __name__ == "__main__":
    main()
