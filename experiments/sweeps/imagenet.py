r"""TPAMI Figure 5 (CVPR Figure 3): error against parameters, FLOPs and memory.

Trains DenseNets and ResNets. DenseNet-161 has a separate recipe: experiments/cvpr2017/table3.

python -m launch.sweep --sweep experiments/sweeps/imagenet.py --workdir runs/imagenet
python -m launch.sweep --sweep experiments/sweeps/imagenet.py:paper --workdir DIR \
    --on slurm --config.data.directory=DATA

Quick form: 8 networks, 3 epochs of 10,000 images of Fashion-MNIST each.
Paper form: 9 networks, 90 epochs of ImageNet each.
Published top-1 error in %: 26.73 (ResNet-34) to 21.19 (DenseNet-232, k = 48).
"""

from experiments import figures
from experiments.sweeps import forms


def get_config(form: str = "quick"):
    return forms.get_config(form)


def get_hyper(hyper, form: str = "quick"):
    points = forms.points(form, figures.IMAGENET)
    return [point for point in points if point["config.model.name"] != "densenet161"]
