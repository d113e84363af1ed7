"""Export a trained network as weights for PyTorch or as a program in StableHLO or ONNX.

    python -m launch.export --weights runs/cifar --out densenet.safetensors
    python -m launch.export --weights FILE --model densenet121 --out densenet121.onnx

The suffix of --out selects the format:

.safetensors  Parameters and running statistics under PyTorch's names, which torchvision's classes
              load unchanged. Also writes a model card, whose suffix is .md.
.stablehlo    The network with its weights, serialised by jax.export for CPU, GPU and TPU and for
              batches of any size. `jax.export.deserialize(bytearray(content)).call(images)` returns
              logits [N, classes] for normalised images [N, H, W, C].
.onnx         The network with its weights in ONNX, for the same images. Needs jax2onnx, which
              requires an older Orbax without using it:
              pip install -e '.[export]'; pip install --no-deps jax2onnx
no suffix     A directory with the files of a repository of the Hugging Face hub: model.safetensors,
              config.json in timm's format, and README.md, the model card. `--weights DIRECTORY` and
              timm read it.

    python -m launch.export --weights runs/cifar --push hf:USER/NAME

uploads these files to the hub, with the token of `hf auth login` or of HF_TOKEN.
"""

import argparse
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import jax
from flax import nnx

from densenet_jax import hub, jax_private, timm_config, weight_files, weights
from densenet_jax.errors import InputError, counted, printable
from densenet_jax.models import catalog
from densenet_jax.models.network import Network
from densenet_jax.train.record import RunDirectory
from launch import command, network_flags
from launch.paths import typed_path

PLATFORMS = ("cpu", "cuda", "tpu")


# Settings that change neither parameters nor predictions. timm does not know them.
_TRAINING_ONLY = ("remat", "block")


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    network_flags.add_flags(parser)
    parser.add_argument("--out", type=typed_path, metavar="FILE", help="a new file or directory")
    parser.add_argument(
        "--push",
        metavar="hf:USER/NAME",
        help="upload to a repository of the Hugging Face hub, which is created if missing",
    )
    parser.add_argument(
        "--license",
        default="unknown",
        metavar="NAME",
        help="license of the weights, for the model card (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if printable(args.license) != args.license:
        raise InputError(f"--license is {args.license!r}: remove the control characters")
    if bool(args.out) == bool(args.push):
        raise InputError("set either --out or --push")
    if args.push:
        with tempfile.TemporaryDirectory() as directory:
            network = network_flags.read(args)
            write_repository(Path(directory), network, args.weights, args.license)
            address = hub.upload(Path(directory), args.push)
        print(f"uploaded {args.weights} to {address}")
        return
    writers = {
        ".safetensors": _write_safetensors,
        ".stablehlo": _write_stablehlo,
        ".onnx": _write_onnx,
        "": _write_directory,
    }
    if args.out.suffix not in writers:
        raise InputError(f"--out is {args.out}: it must end in {', '.join(filter(None, writers))}")
    has_card = args.out.suffix == ".safetensors"
    for path in (args.out, *([args.out.with_suffix(".md")] if has_card else [])):
        if path.exists():
            raise InputError(f"{path} already exists: choose another --out")
    if not args.out.parent.is_dir():
        raise InputError(
            f"--out is in {args.out.parent}, which is not a directory: create it first"
        )
    writers[args.out.suffix](network_flags.read(args), args)


def _write_safetensors(network: Network, args: argparse.Namespace) -> None:
    arrays = weights.to_torch(network)
    weight_files.write(args.out, arrays)
    path = args.out.with_suffix(".md")
    path.write_text(card(network, args.out.stem, args.weights, args.license), encoding="utf-8")
    print(f"wrote {counted(len(arrays), 'array')} to {args.out}, and a model card to {path}")


def _write_directory(network: Network, args: argparse.Namespace) -> None:
    args.out.mkdir()
    write_repository(args.out, network, args.weights, args.license)
    print(f"wrote model.safetensors, config.json and README.md to {args.out}")


def write_repository(directory: Path, network: Network, source: str, license: str) -> None:
    """Writes the files of a repository of the Hugging Face hub to `directory`.

    Args:
      source: the `--weights` of the network, for the model card.
    """
    name, settings = catalog.describe(network.config)
    settings = {name: x for name, x in settings.items() if name not in _TRAINING_ONLY}
    settings |= {"num_classes": network.config.num_classes}
    config = timm_config.TimmConfig(
        name, settings, network.preprocessing, network.classes, network.multilabel
    )
    weight_files.write(directory / "model.safetensors", weights.to_torch(network))
    (directory / "config.json").write_text(timm_config.write(config), encoding="utf-8")
    text = card(network, name, source, license)
    (directory / "README.md").write_text(text, encoding="utf-8")


def _write_stablehlo(network: Network, args: argparse.Namespace) -> None:
    (batch,) = jax.export.symbolic_shape("batch")
    shape, dtype = (batch, *_image_shape(network)), network.config.param_dtype
    forward = jax.jit(_forward(network))
    exported = jax.export.export(forward, platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, dtype))
    args.out.write_bytes(exported.serialize())
    print(f"wrote {args.out}: images {shape} to logits, for {', '.join(PLATFORMS)}")


def _write_onnx(network: Network, args: argparse.Namespace) -> None:
    # They log every optional library that is missing.
    for library in ("jax2onnx", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    shape = ("batch", *_image_shape(network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from jax2onnx import to_onnx
        except ImportError as error:
            raise InputError(
                f"ONNX needs jax2onnx ({error}): pip install -e '.[export]'; "
                "pip install --no-deps jax2onnx"
            ) from error
        jax_private.restore_closed_jaxpr()
        forward = _forward(network)
        model = to_onnx(forward, inputs=[shape], model_name=_family(network))
    args.out.write_bytes(model.SerializeToString())
    print(f"wrote {args.out}: images ({', '.join(map(str, shape))}) to logits")


def _image_shape(network: Network) -> tuple[int, int, int]:
    side = network.preprocessing.crop.size
    return side, side, network.config.in_channels


def _forward(model: Network):
    """Returns a function from images to logits, in which the weights are constants."""
    graphdef, state = nnx.split(model)
    return lambda images: nnx.merge(graphdef, state)(images, train=False)


def card(network: Network, title: str, source: str, license: str) -> str:
    """Renders a model card in the format of the Hugging Face hub."""
    config, preprocessing = network.config, network.preprocessing
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    lines = [
        "---",
        f"license: {license}",
        "library_name: densenet_jax",
        "pipeline_tag: image-classification",
        "---",
        f"# {title}",
        "",
        f"A {_family(network)} with {counted(parameters, 'parameter')}, under PyTorch's names.",
        f"Exported from {Path(source).name if source.startswith('/') else source} by densenet_jax.",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {config.num_classes} |",
        f"| input | {preprocessing.crop.size} x {preprocessing.crop.size} pixels, "
        f"{counted(config.in_channels, 'channel')}; the centre after resizing the short side to "
        f"{preprocessing.crop.resize} ({preprocessing.crop.interpolation}) |",
        f"| pixel mean (0 to 255) | {', '.join(f'{x:g}' for x in preprocessing.mean)} |",
        f"| pixel standard deviation | {', '.join(f'{x:g}' for x in preprocessing.std)} |",
    ]
    if result := _result(source):
        lines += [
            f"| trained on | {result['data']}, {counted(result['epochs'], 'epoch')}, "
            f"seed {result['seed']} |",
            f"| {'wrong labels in the test' if network.multilabel else 'test error'} | "
            f"{result['test_error']:.2f} % |",
        ]
    if network.multilabel:
        lines.append("| labels | several for each picture; their probabilities are sigmoids |")
    if network.classes:
        names = printable(", ".join(network.classes)).replace("|", "\\|")
        lines.append(f"| class names | {names} |")
    settings = {
        name: value
        for name, value in vars(config).items()
        if "dtype" not in name and name not in _TRAINING_ONLY
    }
    return "\n".join([*lines, "", "```json", json.dumps(settings, indent=2), "```", ""])


def _family(network: Network) -> str:
    return type(network.config).__name__.removesuffix("Config")


def _result(source: str) -> dict | None:
    return RunDirectory(source).result() if Path(source).is_dir() else None


if __name__ == "__main__":
    sys.exit(command.run(main))
