"""Give a trained network away: as weights for PyTorch, or as a program that needs none of this.

    python -m launch.export --weights runs/cifar --out densenet.safetensors
    python -m launch.export --weights FILE --model densenet121 --out densenet121.onnx

The ending of --out says what is written:

.safetensors  parameters and running statistics under PyTorch's names, which torchvision's classes
              load unchanged; beside it a model card, of the same name and .md
.stablehlo    the network with its weights, for CPU, GPU and TPU and batches of any size, as
              jax.export serialises it: `jax.export.deserialize(bytearray(content)).call(images)`
              gives logits [N, classes] of images [N, H, W, C], which are normalised
.onnx         the same for ONNX; by jax2onnx, which asks pip for an older Orbax than this project,
              without using it: pip install 'densenet_jax[export]'; pip install --no-deps jax2onnx
"""

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path

import jax
import jax.extend.core
from flax import nnx

from densenet_jax import weight_files, weights
from densenet_jax.errors import InputError, counted
from densenet_jax.train.record import RunDirectory
from launch import command, network
from launch.paths import typed_path

PLATFORMS = ("cpu", "cuda", "tpu")


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    network.add_flags(parser)
    parser.add_argument(
        "--out", required=True, type=typed_path, metavar="FILE", help="not there yet"
    )
    parser.add_argument(
        "--license", default="unknown", help="for the model card: of weights and data (%(default)s)"
    )
    args = parser.parse_args(argv)
    writers = {
        ".safetensors": _write_safetensors,
        ".stablehlo": _write_stablehlo,
        ".onnx": _write_onnx,
    }
    if args.out.suffix not in writers:
        raise InputError(f"--out is {args.out}: it must end in {', '.join(writers)}.")
    has_card = args.out.suffix == ".safetensors"
    for path in (args.out, *([args.out.with_suffix(".md")] if has_card else [])):
        if path.exists():
            raise InputError(f"{path} exists: name another file.")
    if not args.out.parent.is_dir():
        raise InputError(f"--out is in {args.out.parent}, which is no folder.")
    writers[args.out.suffix](network.read(args), args)


def _write_safetensors(found: network.Network, args: argparse.Namespace) -> None:
    arrays = weights.to_torch(found.model)
    weight_files.write(args.out, arrays)
    card = args.out.with_suffix(".md")
    card.write_text(_card(found, args), encoding="utf-8")
    print(f"{counted(len(arrays), 'array')} in {args.out}; {card} describes them.")


def _write_stablehlo(found: network.Network, args: argparse.Namespace) -> None:
    (batch,) = jax.export.symbolic_shape("batch")
    shape, dtype = (batch, *_image_shape(found)), found.model.config.param_dtype
    forward = jax.jit(_forward(found.model))
    exported = jax.export.export(forward, platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, dtype))
    try:
        content = exported.serialize()
    except ImportError as error:
        raise InputError("StableHLO needs flatbuffers: `pip install flatbuffers`.") from error
    args.out.write_bytes(content)
    print(f"{args.out}: images {shape} to logits, for {', '.join(PLATFORMS)}.")


def _write_onnx(found: network.Network, args: argparse.Namespace) -> None:
    # They tell of every library that could be converted as well, were it there, and so forth.
    for library in ("jax2onnx", "onnx_ir"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    shape = ("batch", *_image_shape(found))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from jax2onnx import to_onnx
        except ImportError as error:
            raise InputError(
                "ONNX needs jax2onnx: `pip install 'densenet_jax[export]'`, then "
                f"`pip install --no-deps jax2onnx` ({error})."
            ) from error
        # jax2onnx 0.17 looks for it there; since jax 0.12 it has its public place only.
        jax._src.core.ClosedJaxpr = jax.extend.core.ClosedJaxpr
        forward = _forward(found.model)
        model = to_onnx(forward, inputs=[shape], model_name=type(found.model).__name__)
    args.out.write_bytes(model.SerializeToString())
    print(f"{args.out}: images ({', '.join(map(str, shape))}) to logits.")


def _image_shape(found: network.Network) -> tuple[int, int, int]:
    side = found.preprocessing.crop.size
    return side, side, found.model.config.in_channels


def _forward(model: nnx.Module):
    """A function from images to logits, whose weights are constants in it."""
    graphdef, state = nnx.split(model)
    return lambda images: nnx.merge(graphdef, state)(images, train=False)


def _card(found: network.Network, args: argparse.Namespace) -> str:
    """A model card as the Hugging Face hub reads it."""
    config, preprocessing = found.model.config, found.preprocessing
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(found.model, nnx.Param)))
    lines = [
        "---",
        f"license: {args.license}",
        "library_name: densenet_jax",
        "pipeline_tag: image-classification",
        "---",
        f"# {args.out.stem}",
        "",
        f"A {type(found.model).__name__} of {counted(parameters, 'parameter')}, "
        "under PyTorch's names.",
        f"Made from {args.weights} by `launch.export`.",
        "",
        "| | |",
        "|---|---|",
        f"| classes | {config.num_classes} |",
        f"| input | {preprocessing.crop.size} x {preprocessing.crop.size} pixels, "
        f"{counted(config.in_channels, 'channel')}; the middle after resizing the short side to "
        f"{preprocessing.crop.resize} ({preprocessing.crop.interpolation}) |",
        f"| mean, of 0 to 255 | {', '.join(f'{x:g}' for x in preprocessing.mean)} |",
        f"| deviation | {', '.join(f'{x:g}' for x in preprocessing.std)} |",
    ]
    if result := _result(args.weights):
        lines += [
            f"| trained on | {result['data']}, {counted(result['epochs'], 'epoch')}, "
            f"seed {result['seed']} |",
            f"| test error | {result['test_error']:.2f} % |",
        ]
    if found.classes:
        lines.append(f"| names of the classes | {', '.join(found.classes)} |")
    settings = {name: value for name, value in vars(config).items() if "dtype" not in name}
    return "\n".join([*lines, "", "```json", json.dumps(settings, indent=2), "```", ""])


def _result(source: str) -> dict | None:
    return RunDirectory(source).result() if Path(source).is_dir() else None


if __name__ == "__main__":
    sys.exit(command.run(main))
