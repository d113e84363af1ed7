r"""TPAMI Figure 5 (CVPR Figure 3): error against parameters, FLOPs and memory.

DenseNets and ResNets. DenseNet-161 has a recipe of its own, experiments/cvpr2017/table3.

python -m launch.sweep --sweep experiments/sweeps/imagenet.py --workdir runs/imagenet
python -m launch.sweep --sweep experiments/sweeps/imagenet.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    points = forms.points(form, figures.IMAGENET)
    return [point for point in points if point["config.model.name"] != "densenet161"]
