"""The curves of the papers' figures as published, with small networks that show the same effect.

Figure numbers are those of TPAMI. Errors are in percent, parameters in millions, and FLOPs in 1e9,
where a multiply-add is two FLOPs. All values were read from the vector graphics of the PDF, marker
against axis, and are accurate to plotting precision.
"""

from typing import NamedTuple


class Point(NamedTuple):
    """A marker of a curve: a network and its plotted values.

    Attributes:
      label: name of the marker in its curve: a depth, or a letter of `DEPTHS`.
      model, settings: name of the network in the catalogue, and the overrides of its config.
      error: top-1 test error.
      params, flops, memory_gb: plotted values, or None if the figure has no such axis.
    """

    label: str
    model: str
    settings: dict[str, object]
    error: float
    params: float | None = None
    flops: float | None = None
    memory_gb: float | None = None


class Curve(NamedTuple):
    """A line of a figure.

    Attributes:
      points: published markers.
      quick: config values of networks that show the same effect on small images.
      quick_name: name of the curve of the quick networks, if their settings differ.
    """

    name: str
    points: tuple[Point, ...]
    quick: tuple[dict[str, object], ...]
    quick_name: str = ""


# Layers a block at depths 101, 121, 169, 201, 265 and 329: the points of Figures 8 to 12.
DEPTHS = {
    "A": (6, 12, 18, 12),
    "B": (6, 12, 24, 16),
    "C": (6, 12, 32, 32),
    "D": (6, 12, 48, 32),
    "E": (6, 12, 64, 48),
    "F": (6, 12, 80, 64),
}
# The quick networks: two, four and six layers in each block, k = 8.
_QUICK_MODEL = "densenet_bc_k8_d22"
_QUICK_DEPTHS = (16, 28, 40)


def _curve_by_depth(name: str, kind: str, params_and_errors: dict[int, tuple], quick: int) -> Curve:
    """Builds a curve of Figure 4, whose first `quick` networks are the quick networks."""
    points = tuple(
        Point(f"L={depth}", f"densenet{kind}_k12_d{depth}", {}, error, params / 1e6)
        for depth, (params, error) in params_and_errors.items()
    )
    return Curve(name, points, tuple({"model.name": point.model} for point in points[:quick]))


def _resnet_point(params: int, error: float, name: str, *widths: int) -> Point:
    settings: dict[str, object] = {"widths": widths} if widths else {}
    return Point(f"L={name.removeprefix('preresnet')}", name, settings, error, params / 1e6)


def _resnets() -> Curve:
    points = (
        _resnet_point(33_338, 15.31, "preresnet11", 32, 64, 128),
        _resnet_point(72_474, 13.51, "preresnet11", 48, 96, 192),
        _resnet_point(126_746, 11.68, "preresnet11"),
        _resnet_point(219_482, 9.18, "preresnet20"),
        _resnet_point(312_218, 8.24, "preresnet29"),
        _resnet_point(404_954, 7.58, "preresnet38"),
        _resnet_point(497_690, 7.48, "preresnet47"),
        _resnet_point(590_426, 6.93, "preresnet56"),
        _resnet_point(683_162, 6.43, "preresnet65"),
    )
    quick = [
        {"model.name": point.model} | {f"model.{k}": v for k, v in point.settings.items()}
        for point in points[:4]
    ]
    return Curve("ResNet (pre-activation)", points, tuple(quick))


# Figure 4, left and middle: CIFAR-10+, k = 12.
PARAMETER_EFFICIENCY = (
    _curve_by_depth("DenseNet", "", {
        10: (37_762, 12.54), 13: (76_018, 10.14), 16: (127_594, 8.92), 19: (192_490, 7.69),
        22: (270_706, 7.09), 25: (362_242, 6.35), 28: (467_098, 6.31), 31: (585_274, 5.62),
        34: (716_770, 5.52),
    }, quick=4),
    _curve_by_depth("DenseNet-C", "_c", {
        10: (23_530, 13.40), 13: (46_306, 10.52), 16: (76_810, 9.89), 22: (161_002, 7.39),
        28: (276_106, 6.66), 34: (422_122, 6.22), 40: (599_050, 5.65),
    }, quick=4),
    _curve_by_depth("DenseNet-B", "_b", {
        10: (26_386, 14.71), 16: (57_418, 10.53), 22: (95_290, 8.63), 28: (140_002, 7.69),
        40: (249_946, 6.42), 52: (387_250, 5.51), 64: (551_914, 5.23), 76: (743_938, 4.99),
    }, quick=4),
    # The first two markers are plotted at the sizes of DenseNet-C, probably by mistake. The nearest
    # DenseNet-BCs, which are taken here, have 20,902 and 44,410 parameters.
    _curve_by_depth("DenseNet-BC", "_bc", {
        10: (23_530, 13.71), 16: (46_306, 10.98), 28: (102_730, 8.28), 40: (176_122, 6.80),
        52: (264_586, 5.84), 64: (368_122, 5.06), 76: (486_730, 4.95), 88: (620_410, 4.89),
        100: (769_162, 4.51),
    }, quick=4),
    _resnets(),
)  # fmt: skip


def _imagenet_point(label: str, model: str, error, params, flops, memory_gb=None) -> Point:
    return Point(label, model, {}, error, params, flops, memory_gb)


# Figure 5, with the memory of training in batches of 64. Figure 3 of CVPR has DenseNet-161 but not
# 264, 232 or the memory. ResNets are those of fb.resnet.torch: the plotted parameters include
# biases of all convolutions. Plotted FLOPs are up to 0.5 % above the counted FLOPs.
IMAGENET = (
    Curve(
        "ResNet",
        (
            _imagenet_point("34", "resnet34", 26.73, 21.8, 7.34, 2.16),
            _imagenet_point("50", "resnet50", 24.01, 25.6, 8.21, 4.48),
            _imagenet_point("101", "resnet101", 22.44, 44.6, 15.6, 6.09),
            _imagenet_point("152", "resnet152", 22.16, 60.3, 23.1, 9.57),
        ),
        PARAMETER_EFFICIENCY[4].quick,
    ),
    Curve(
        "DenseNet-BC",
        (
            _imagenet_point("121", "densenet121", 25.03, 7.98, 5.69, 3.31),
            _imagenet_point("169", "densenet169", 23.63, 14.15, 6.75, 3.56),
            _imagenet_point("201", "densenet201", 22.54, 20.01, 8.62, 3.84),
            _imagenet_point("264", "densenet264", 21.98, 33.34, 11.5, 4.15),
        ),
        PARAMETER_EFFICIENCY[3].quick,
    ),
    Curve(
        "DenseNet-BC, k = 48",
        (
            _imagenet_point("161", "densenet161", 22.20, 28.7, 15.5),
            _imagenet_point("232", "densenet232", 21.19, 55.57, 20.3, 6.02),
        ),
        (),
    ),
)


def _ablation(
    name: str, settings: dict, quick_name: str = "", quick: dict | None = None, **cells: tuple
) -> Curve:
    """Builds a curve of Figures 8 to 12.

    Args:
      settings: overrides of DenseNet-121 with the blocks of `DEPTHS`.
      quick_name, quick: name and overrides of the quick networks, if they differ.
      cells: (error, flops, params) by letter; params only if they are plotted.
    """
    points = tuple(
        Point(letter, "densenet121", {"block_config": DEPTHS[letter]} | settings, error, params,
              flops)
        for letter, (error, flops, *rest) in cells.items()
        for params in [rest[0] if rest else None]
    )  # fmt: skip
    quick = settings if quick is None else quick
    networks = tuple(
        {"model.name": _QUICK_MODEL, "model.depth": depth}
        | {f"model.{key}": value for key, value in quick.items()}
        for depth in _QUICK_DEPTHS
    )
    return Curve(name, points, networks, quick_name)


def _default_curve(name: str, quick_name: str = "") -> Curve:
    return _ablation(name, {}, quick_name, A=(26.42, 5.16, 5.85), B=(25.10, 5.67, 7.98),
                     C=(23.73, 6.72, 14.15), D=(22.87, 8.58, 20.01),
                     E=(22.41, 11.5, 33.34))  # fmt: skip


# Figure 8.
GROWTH_RATE = (
    _ablation("k = 8", {"growth_rate": 8}, "k = 4", {"growth_rate": 4},
              A=(45.05, 0.367), B=(42.63, 0.399), C=(38.00, 0.465), D=(35.67, 0.581),
              E=(32.62, 0.764), F=(31.03, 0.992)),
    _ablation("k = 16", {"growth_rate": 16}, "k = 6", {"growth_rate": 6},
              B=(31.58, 1.48), C=(28.92, 1.74), D=(27.53, 2.21), E=(25.81, 2.94),
              F=(24.96, 3.85)),
    _ablation("k = 24", {"growth_rate": 24}, "k = 8", {},
              A=(28.85, 2.95), B=(27.54, 3.23), C=(25.18, 3.82), D=(24.17, 4.87),
              E=(23.66, 6.52), F=(23.09, 8.56)),
    _ablation("k = 32", {"growth_rate": 32}, "k = 12", {"growth_rate": 12},
              A=(26.43, 5.16), B=(25.11, 5.67), C=(23.74, 6.72), D=(22.88, 8.58),
              E=(22.42, 11.5)),
    _ablation("k = 40", {"growth_rate": 40}, "k = 16", {"growth_rate": 16},
              A=(24.71, 7.99), B=(23.90, 8.78), C=(22.76, 10.4), D=(22.08, 13.3)),
)  # fmt: skip
BOTTLENECK = (
    _ablation("1k", {"bottleneck": 1}, A=(30.89, 1.88), B=(29.55, 2.06), C=(27.60, 2.41),
              D=(26.23, 3.11), E=(25.39, 4.15), F=(24.52, 5.44)),
    _ablation("2k", {"bottleneck": 2}, A=(28.42, 2.98), B=(27.30, 3.26), C=(25.40, 3.85),
              D=(24.44, 4.93), E=(23.65, 6.60), F=(22.94, 8.68)),
    _ablation("4k", {"bottleneck": 4}, A=(26.43, 5.16), B=(25.11, 5.67), C=(23.73, 6.72),
              D=(22.87, 8.58), E=(22.41, 11.5)),
    _ablation("8k", {"bottleneck": 8}, A=(24.26, 9.54), B=(23.80, 10.5), C=(22.38, 12.5),
              D=(22.02, 15.9)),
)  # fmt: skip
COMPRESSION = (
    _ablation("θ = 0.3", {"compression": 0.3}, A=(27.20, 4.63), B=(25.99, 5.05), C=(24.08, 5.93),
              D=(23.26, 7.52), E=(22.39, 10.0), F=(22.35, 13.2)),
    _ablation("θ = 0.5", {"compression": 0.5}, A=(26.42, 5.16), B=(25.10, 5.67), C=(23.73, 6.72),
              D=(22.87, 8.58), E=(22.41, 11.5)),
    _ablation("θ = 0.7", {"compression": 0.7}, A=(25.59, 5.79), B=(24.59, 6.41), C=(23.30, 7.66),
              D=(22.68, 9.84), E=(22.17, 13.2)),
    _ablation("θ = 1.0", {"compression": 1.0}, A=(24.94, 7.02), B=(24.11, 7.83), C=(22.87, 9.46),
              D=(22.52, 12.2)),
)  # fmt: skip
# Figure 9.
FULL_CONNECTIVITY = (
    _default_curve("within blocks"),
    _ablation("full", {"connectivity": "full"}, A=(26.16, 5.39, 8.49), C=(23.76, 7.33, 20.25),
              D=(23.17, 9.29, 27.44), E=(22.98, 12.5, 45.03)),
)  # fmt: skip
# Figure 10. The blocks of the quick networks are too short for a span of 12.
PARTIAL_CONNECTIVITY = (
    _default_curve("all earlier layers"),
    _ablation("fixed span, 12 layers", {"connectivity": "span", "span": 12},
              "fixed span, 2 layers", {"connectivity": "span", "span": 2},
              A=(26.34, 5.06, 5.59), B=(25.67, 5.38, 7.01), C=(25.08, 5.92, 10.24),
              D=(24.13, 6.81, 13.08), E=(24.24, 7.93, 18.08), F=(24.10, 9.16, 23.34)),
    _ablation("odd-even", {"connectivity": "odd_even"},
              B=(26.78, 4.57, 5.99), C=(24.90, 5.25, 10.02), D=(23.84, 6.46, 13.78),
              E=(23.00, 8.28, 21.98), F=(22.80, 10.5, 32.04)),
    _ablation("logarithmic", {"connectivity": "logarithmic"},
              A=(28.01, 4.11, 4.15), B=(27.61, 4.35, 5.23), C=(26.84, 4.77, 7.76),
              D=(25.67, 5.48, 9.99), E=(25.14, 6.41, 14.03), F=(25.64, 7.46, 18.55)),
)  # fmt: skip
# Figure 11: growth rates of 8, 16, 32 and 64. The parameters of the last network are counted,
# because they are outside the panel.
EXPONENTIAL_GROWTH = (
    _default_curve("32", "8"),
    _ablation("8, 16, 32, 64", {"growth_rate": 8, "growth_factor": 2},
              "4, 8, 16", {"growth_rate": 4, "growth_factor": 2},
              A=(28.22, 1.65, 7.11), B=(26.71, 2.24, 10.67), C=(24.90, 3.97, 24.86),
              D=(24.19, 5.79, 31.40), E=(24.08, 9.81, 57.55)),
)  # fmt: skip
# Figure 12. Both curves are plotted at the parameters of pre-activation. Layers of
# Conv-BN-ReLU-Conv-BN-ReLU have 5.81, 7.92, 14.02 and 32.98 million. No FLOPs are plotted.
POST_ACTIVATION = (
    _default_curve("pre-activation"),
    _ablation("post-activation", {"post_activation": True},
              A=(27.25, None, 5.85), B=(26.66, None, 7.98), C=(25.03, None, 14.15),
              E=(23.61, None, 33.34)),
)  # fmt: skip

CURVES = {
    "parameter_efficiency": PARAMETER_EFFICIENCY,
    "imagenet": IMAGENET,
    "growth_rate": GROWTH_RATE,
    "bottleneck": BOTTLENECK,
    "compression": COMPRESSION,
    "full_connectivity": FULL_CONNECTIVITY,
    "partial_connectivity": PARTIAL_CONNECTIVITY,
    "exponential_growth": EXPONENTIAL_GROWTH,
    "post_activation": POST_ACTIVATION,
}


class TrainingCurve(NamedTuple):
    """A network of Figure 4, right, and the values read from its curves.

    Attributes:
      model: name of the network in the catalogue.
      quick: name of the quick network, which no other figure has.
      errors: mean test error in percent by the first and last epoch of a range.
      last_error: test error after epoch 300, the last.
    """

    model: str
    quick: str
    errors: dict[tuple[int, int], float]
    last_error: float


# Figure 4, right: 300 epochs of CIFAR-10+.
TRAINING_CURVES = {
    "ResNet (pre-activation)": TrainingCurve(
        "preresnet1001", "wrn16_1",
        {(50, 60): 12.7, (160, 170): 4.83, (200, 224): 5.11, (226, 235): 4.59, (281, 300): 4.45},
        4.45,
    ),
    "DenseNet-BC": TrainingCurve(
        "densenet_bc_k12_d100", "densenet_bc_k12_d22",
        {(50, 60): 11.8, (160, 170): 5.30, (200, 224): 5.49, (226, 235): 4.86, (281, 300): 4.55},
        4.51,
    ),
}  # fmt: skip

# Figure 7: GB of memory for training DenseNet-BC, k = 12, on CIFAR-10 in batches of 64, by depth L.
# The naive implementations already share the memory of gradients.
MEMORY_BY_DEPTH = {
    "naive LuaTorch": {
        34: 0.96, 64: 1.75, 94: 2.81, 124: 4.08, 154: 5.61, 184: 7.34, 214: 9.37, 244: 11.62,
    },
    "naive PyTorch": {
        34: 0.88, 64: 1.51, 94: 2.43, 124: 3.60, 154: 5.01, 184: 6.51, 214: 8.36, 244: 10.70,
        256: 11.62,
    },
    "efficient LuaTorch": {
        34: 0.79, 64: 1.13, 94: 1.56, 124: 2.21, 154: 3.02, 184: 3.96, 214: 5.06, 244: 6.31,
        274: 7.71, 304: 9.25, 334: 10.93, 346: 11.65,
    },
    "efficient PyTorch": {
        34: 0.79, 64: 1.10, 94: 1.45, 124: 1.75, 154: 2.08, 184: 2.55, 214: 3.15, 244: 3.82,
        274: 4.57, 304: 5.30, 334: 6.28, 364: 7.25, 394: 8.30, 424: 9.41, 454: 10.61, 478: 11.61,
    },
}  # fmt: skip

# Parameters of the networks of Figure 7, in millions.
PARAMS_BY_DEPTH = {
    34: 0.138, 64: 0.368, 94: 0.693, 124: 1.112, 154: 1.625, 184: 2.232, 214: 2.934, 244: 3.730,
    256: 4.074, 274: 4.620, 304: 5.604, 334: 6.682, 346: 7.140, 364: 7.86, 394: 9.12, 424: 10.48,
    454: 11.94, 478: 13.17,
}  # fmt: skip

# Figure 7, right: seconds for a step of the network with L = 100, on a Maxwell Titan X.
STEP_SECONDS = {
    "naive LuaTorch": 0.152,
    "naive PyTorch": 0.165,
    "efficient LuaTorch": 0.175,
    "efficient PyTorch": 0.207,
}

# Figure 6: the legible entries in the heat map of each block of the plain DenseNet with L = 40,
# k = 12, by (source, reader). Source 0 is the block's input, and reader 13 is the transition or the
# classifier. The entries of each reader are rescaled to 0 to 1.
HEAT_MAPS: tuple[dict[tuple[int, int], float], ...] = (
    {},
    {(0, reader): 0.0 for reader in range(2, 14)},
    {(0, reader): 0.0 for reader in range(2, 14)}
    | {(source, 13): 0.0 for source in range(8)}
    | {(8, 13): 0.23, (9, 13): 0.50, (10, 13): 0.53, (11, 13): 0.91, (12, 13): 1.00},
)
