"""Numbers of tables that others published, each stored once and never mixed with measured numbers.

Editions: "CVPR" is the paper in the proceedings of CVPR 2017, "arXiv" is version 5 of 1608.06993,
and "TPAMI" is the journal paper of 2019. Errors are in percent. `figures` holds the numbers of
figures.
"""

from typing import NamedTuple


class Architecture(NamedTuple):
    """A column of Table 1.

    Attributes:
      growth_rate: k in the paper.
      block_config: number of layers in each dense block.
      counted: counted parameters with 1000 classes; the table prints none.
      editions: editions that print the column.
    """

    growth_rate: int
    block_config: tuple[int, ...]
    counted: int
    editions: tuple[str, ...]


class Row(NamedTuple):
    """A row of Table 2.

    Attributes:
      method: printed name, completed for rows that only print a difference from the row above.
      depth: printed depth, or None.
      params: printed parameters, or None.
      counted: counted parameters with 10 classes.
      errors: test error by column, for the columns that the row has.
      rerun: columns marked `*`, which the authors of DenseNet ran themselves.
    """

    method: str
    depth: int | None
    params: str | None
    counted: int
    errors: dict[str, float]
    rerun: tuple[str, ...] = ()


class ImageNetRow(NamedTuple):
    """A row of Table 3: validation errors by column, and the editions that print it."""

    method: str
    errors: dict[str, float]
    editions: tuple[str, ...]


_ALL = ("CVPR", "arXiv", "TPAMI")

# Table 1. All columns have images of 224 x 224, a stem of 2k filters, bottlenecks of 4k and
# compression 0.5. TPAMI calls the last column DenseNet-265, which is its depth.
TABLE1 = {
    "densenet121": Architecture(32, (6, 12, 24, 16), 7_978_856, _ALL),
    "densenet169": Architecture(32, (6, 12, 32, 32), 14_149_480, _ALL),
    "densenet201": Architecture(32, (6, 12, 48, 32), 20_013_928, _ALL),
    "densenet161": Architecture(48, (6, 12, 36, 24), 28_681_000, ("CVPR",)),
    "densenet264": Architecture(32, (6, 12, 64, 48), 33_337_704, ("arXiv", "TPAMI")),
}

# The columns of Table 2; `+` stands for shifted and mirrored training images.
COLUMNS = ("c10", "c10+", "c100", "c100+", "svhn")


def _row(method, depth, params, counted, errors, rerun=()) -> Row:
    """Builds a row from `errors` in the order of `COLUMNS`; None stands for an empty cell."""
    cells = zip(COLUMNS, errors, strict=True)
    present = {column: error for column, error in cells if error is not None}
    return Row(method, depth, params, counted, present, rerun)


# Table 2. CVPR and arXiv print the same numbers. TPAMI leaves out the DenseNets without BC.
TABLE2 = {
    "nin": _row(
        "Network in Network", None, None, 966_986, (10.41, 8.81, 35.68, None, 2.35)),
    "all_cnn": _row(
        "All-CNN", None, None, 1_369_738, (9.08, 7.25, None, 33.71, None)),
    "dsn": _row(
        "Deeply Supervised Net", None, None, 966_986, (9.69, 7.97, None, 34.57, 1.92)),
    "highway19": _row(
        "Highway Network", None, None, 2_256_838, (None, 7.72, None, 32.39, None)),
    "fractalnet21": _row(
        "FractalNet", 21, "38.6M", 33_714_314, (10.18, 5.22, 35.34, 23.30, 2.01)),
    "fractalnet21_dropout": _row(
        "FractalNet with Dropout/Drop-path", 21, "38.6M", 33_714_314,
        (7.33, 4.60, 28.20, 23.73, 1.87)),
    "resnet110": _row(
        "ResNet", 110, "1.7M", 1_727_962, (None, 6.61, None, None, None)),
    "resnet110_huang": _row(
        "ResNet (reported by Huang et al.)", 110, "1.7M", 1_727_962,
        (13.63, 6.41, 44.74, 27.22, 2.01)),
    "stochastic_depth110": _row(
        "ResNet with Stochastic Depth", 110, "1.7M", 1_727_962,
        (11.66, 5.23, 37.80, 24.58, 1.75)),
    "stochastic_depth1202": _row(
        "ResNet with Stochastic Depth", 1202, "10.2M", 19_421_274,
        (None, 4.91, None, None, None)),
    "wrn16_8": _row(
        "Wide ResNet", 16, "11.0M", 10_961_370, (None, 4.81, None, 22.07, None)),
    "wrn28_10": _row(
        "Wide ResNet", 28, "36.5M", 36_479_194, (None, 4.17, None, 20.50, None)),
    "wrn16_4_dropout": _row(
        "Wide ResNet with Dropout", 16, "2.7M", 2_748_890, (None, None, None, None, 1.64)),
    "preresnet164": _row(
        "ResNet (pre-activation)", 164, "1.7M", 1_703_258,
        (11.26, 5.46, 35.58, 24.33, None), rerun=("c10", "c100")),
    "preresnet1001": _row(
        "ResNet (pre-activation)", 1001, "10.2M", 10_327_706,
        (10.56, 4.62, 33.47, 22.71, None), rerun=("c10", "c100")),
    "densenet_k12_d40": _row(
        "DenseNet (k = 12)", 40, "1.0M", 1_019_722, (7.00, 5.24, 27.55, 24.42, 1.79)),
    "densenet_k12_d100": _row(
        "DenseNet (k = 12)", 100, "7.0M", 6_979_642, (5.77, 4.10, 23.79, 20.20, 1.67)),
    "densenet_k24_d100": _row(
        "DenseNet (k = 24)", 100, "27.2M", 27_249_082, (5.83, 3.74, 23.42, 19.25, 1.59)),
    "densenet_bc_k12_d100": _row(
        "DenseNet-BC (k = 12)", 100, "0.8M", 769_162, (5.92, 4.51, 24.15, 22.27, 1.76)),
    "densenet_bc_k24_d250": _row(
        "DenseNet-BC (k = 24)", 250, "15.3M", 15_324_406, (5.19, 3.62, 19.64, 17.60, 1.74)),
    "densenet_bc_k40_d190": _row(
        "DenseNet-BC (k = 40)", 190, "25.6M", 25_624_430, (None, 3.46, None, 17.18, None)),
}  # fmt: skip

_FRACTALNET = "The network that its authors' code builds has 33.7M; nothing tried gives 38.6M."
_WHITENED = "An early result of its authors, on ZCA-whitened images"

# Cells of Table 2, by row and by "params" or column, that disagree with the count or with the
# repository of their authors, with the difference.
SUSPICIOUS = {
    ("fractalnet21", "params"): _FRACTALNET,
    ("fractalnet21_dropout", "params"): _FRACTALNET,
    ("stochastic_depth1202", "params"): (
        "A ResNet-1202 has 19.4M; 10.2M is probably the pre-activation ResNet-1001."
    ),
    ("wrn16_8", "c10+"): f"{_WHITENED}.",
    ("wrn16_8", "c100+"): f"{_WHITENED}.",
    ("wrn28_10", "c10+"): f"{_WHITENED}; without whitening they report 4.00.",
    ("wrn28_10", "c100+"): f"{_WHITENED}; without whitening they report 19.25.",
    ("wrn16_4_dropout", "svhn"): (
        "The parameters are those of a WRN-16-4; a WRN-16-8 with dropout has 1.54."
    ),
    ("preresnet1001", "params"): "The count rounds to 10.3M.",
    ("preresnet1001", "c10+"): (
        "The median that its authors report for batches of 64; the mean is 4.69 ± 0.20. Batches of "
        "128 give 4.92."
    ),
}

# The columns of Table 3, on the validation set of ImageNet.
TABLE3_COLUMNS = ("top1", "top1_10crop", "top5", "top5_10crop")


def _imagenet_row(method: str, *errors: float, editions: tuple[str, ...] = _ALL) -> ImageNetRow:
    """Builds a row from `errors` in the order of `TABLE3_COLUMNS`."""
    return ImageNetRow(method, dict(zip(TABLE3_COLUMNS, errors, strict=True)), editions)


TABLE3 = {
    "densenet121": _imagenet_row("DenseNet-121", 25.02, 23.61, 7.71, 6.66),
    "densenet169": _imagenet_row("DenseNet-169", 23.80, 22.08, 6.85, 5.92),
    "densenet201": _imagenet_row("DenseNet-201", 22.58, 21.46, 6.34, 5.54),
    "densenet161": _imagenet_row("DenseNet-161", 22.33, 20.85, 6.15, 5.30, editions=("CVPR",)),
    "densenet264": _imagenet_row(
        "DenseNet-264", 22.15, 20.80, 6.12, 5.29, editions=("arXiv", "TPAMI")
    ),
}

# Accuracies in % (top-1, top-5) on the same set with one crop, as other libraries publish them.
# torchvision's weights are the authors'. The weights of mmpretrain and timm's `tv_in1k` are
# torchvision's with another preprocessing. timm trained `ra_in1k`, and evaluates 288 pixels.
PRETRAINED = {
    "densenet121": {
        "torchvision": (74.434, 91.972),
        "mmpretrain": (74.96, 92.21),
        "timm tv_in1k": (74.750, 92.158),
        "timm ra_in1k": (76.486, 93.378),
    },
    "densenetblur121d": {"timm ra_in1k": (77.320, 93.796)},
    "densenet169": {
        "torchvision": (75.600, 92.806),
        "mmpretrain": (76.08, 93.11),
        "timm tv_in1k": (75.922, 92.976),
    },
    "densenet201": {
        "torchvision": (76.896, 93.370),
        "mmpretrain": (77.32, 93.64),
        "timm tv_in1k": (77.284, 93.480),
    },
    "densenet161": {
        "torchvision": (77.138, 93.560),
        "mmpretrain": (77.61, 93.83),
        "timm tv_in1k": (77.384, 93.656),
    },
    "rdnet_tiny": {"timm nv_in1k": (82.814, 96.284)},
    "rdnet_small": {"timm nv_in1k": (83.658, 96.704)},
    "rdnet_base": {"timm nv_in1k": (84.366, 96.878)},
    "rdnet_large": {"timm nv_in1k": (84.794, 97.156)},
}

# Single-crop top-1 errors of the networks in the technical report (arXiv 1707.06990), from the
# README of the authors' repository. "cosine" is the schedule of the learning rate. The abstract of
# the report prints 20.26 for the last network.
TECHNICAL_REPORT = {
    "densenet264": 22.1,
    "densenet232": 21.2,
    "densenet_cosine264:k32": 21.6,
    "densenet_cosine264:k48": 20.4,
}

# Test errors of snapshot ensembles (arXiv 1704.00109, Table 1) with an initial rate of 0.2, on
# augmented images. The abstract prints 3.4 and 17.4; the second decimals are not verified.
SNAPSHOTS = {"densenet_k24_d100": {"c10+": 3.44, "c100+": 17.41}}

# From the README of efficient_densenet_pytorch: DenseNet-BC, L = 100, k = 12, on CIFAR-10 in
# batches of 64, on a Pascal Titan X.
EFFICIENT_DENSENET_PYTORCH = {
    "naive": {"memory_gb": 2.863, "step_seconds": 0.165},
    "efficient": {"memory_gb": 1.605, "step_seconds": 0.207},
}

# Accuracies in the README of Fashion-MNIST, with standardised images, crops and flips.
FASHION_MNIST = {
    "densenet_bc_k12_d100": 0.954,
    "wrn28_10": 0.959,
    "wrn40_4": 0.967,
}
