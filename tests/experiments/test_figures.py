"""Every point of every figure is a network of the plotted size."""

import pytest
from flax import nnx

import densenet_jax as dj
from densenet_jax.analysis.counts import count_macs, count_params
from densenet_jax.models.catalog import model_config
from experiments import figures


def last_digit(number: float) -> float:
    """Returns one unit of the last printed digit, the precision to which plots were read."""
    return 10.0 ** -len(f"{number}".partition(".")[2])


# Small networks, large ones with and without FLOPs, and two variants of a block.
FAST_GROUPS = ("parameter_efficiency", "imagenet", "full_connectivity", "post_activation")


def points(kind: str) -> list:
    """Returns each point of CIFAR-10 or ImageNet; `FAST_GROUPS` have a fast first point a curve."""
    return [
        pytest.param(group, curve, i, id=f"{group}-{curve.name}-{point.label}",
                     marks=() if i == 0 and group in FAST_GROUPS else pytest.mark.slow)
        for group, curves in figures.CURVES.items()
        if (group == "parameter_efficiency") == (kind == "cifar")
        for curve in curves
        for i, point in enumerate(curve.points)
    ]  # fmt: skip


def counted(point) -> tuple[int, int]:
    """Counts parameters and FLOPs at 224 x 224."""
    config = model_config(point.model, **point.settings)
    return count_params(config), 2 * count_macs(config, 224, 224) if point.flops else 0


def shifts(model: str) -> int:
    """Counts the shifts of BatchNorm."""
    made = nnx.eval_shape(lambda: dj.create_model(model, rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(made, nnx.Param))
    return sum(v.size for path, v in flat if path[-1] == "bias" and path[0] != "classifier")


@pytest.mark.parametrize(("group", "curve", "i"), points("imagenet"))
def test_points_of_imagenet(group, curve, i):
    point = curve.points[i]
    params, flops = counted(point)
    if curve.name == "post-activation":
        # Plotted at the sizes of pre-activation. The literal networks have these sizes.
        literal = {"A": 5.81, "B": 7.92, "C": 14.02, "E": 32.98}[point.label]
        assert params / 1e6 == pytest.approx(literal, abs=0.005)
    elif point.params and group == "imagenet" and curve.name == "ResNet":
        # The plotted sizes include a bias of each convolution, one for each shift of BatchNorm.
        with_biases = (params + shifts(point.model)) / 1e6
        assert with_biases == pytest.approx(point.params, abs=last_digit(point.params) / 2)
    elif point.params:
        assert params / 1e6 == pytest.approx(point.params, abs=last_digit(point.params))
    if point.flops:
        precision = 0.006 * point.flops if group == "imagenet" else last_digit(point.flops)
        assert flops / 1e9 == pytest.approx(point.flops, abs=precision)


@pytest.mark.parametrize(("group", "curve", "i"), points("cifar"))
def test_points_of_cifar(group, curve, i):
    point = curve.points[i]
    params, _ = counted(point)
    if curve.name == "DenseNet-BC" and i < 2:
        # Plotted where DenseNet-C has its first two.
        assert (round(1e6 * point.params), params) in [(23_530, 20_902), (46_306, 44_410)]
    else:
        assert params == round(1e6 * point.params)


def test_every_figure_has_all_its_points():
    """Counted in the journal paper, where Figure 9 lacks B and Figure 12 lacks D."""
    drawn = {name: [len(curve.points) for curve in group] for name, group in figures.CURVES.items()}
    assert drawn == {
        "parameter_efficiency": [9, 7, 8, 9, 9],
        "imagenet": [4, 4, 2],
        "growth_rate": [6, 5, 6, 5, 4],
        "bottleneck": [6, 6, 5, 4],
        "compression": [6, 5, 5, 4],
        "full_connectivity": [5, 4],
        "partial_connectivity": [5, 6, 5, 6],
        "exponential_growth": [5, 5],
        "post_activation": [5, 4],
    }
    assert {name: len(curve) for name, curve in figures.MEMORY_BY_DEPTH.items()} == {
        "naive LuaTorch": 8,
        "naive PyTorch": 9,
        "efficient LuaTorch": 12,
        "efficient PyTorch": 16,
    }


@pytest.mark.parametrize(
    "depth", [d if d < 45 else pytest.param(d, marks=pytest.mark.slow)
              for d in figures.PARAMS_BY_DEPTH]
)  # fmt: skip
def test_networks_of_figure_7(depth):
    millions = figures.PARAMS_BY_DEPTH[depth]
    counted = count_params(model_config(f"densenet_bc_k12_d{depth}")) / 1e6
    assert counted == pytest.approx(millions, abs=last_digit(millions))


@pytest.mark.parametrize("span", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_spans_that_no_figure_shows(span):
    millions = {4: (4.19, 5.18), 8: (5.00, 6.21)}[span]
    for letter, expected in zip("AB", millions, strict=True):
        config = model_config(
            "densenet121",
            block_config=figures.DEPTHS[letter],
            connectivity="span",
            span=span,
        )
        assert count_params(config) / 1e6 == pytest.approx(expected, abs=0.005)
