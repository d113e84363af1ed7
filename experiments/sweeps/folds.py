r"""Five-fold cross-validation of the quickstart on scikit-learn's digits.

python -m launch.sweep --sweep experiments/sweeps/folds.py --workdir runs/folds

Cost: 5 runs of one network, 8 epochs each. No published numbers.
"""

from experiments import quickstart

FOLDS = 5


def get_config():
    config = quickstart.get_config()
    config.epochs = 8
    config.data.folds = FOLDS
    return config


def get_hyper(hyper):
    return hyper.sweep("config.data.fold", range(FOLDS))
