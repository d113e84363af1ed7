r"""Five-fold cross-validation of the quickstart on scikit-learn's digits.

python -m launch.sweep --sweep experiments/sweeps/folds.py --workdir runs/folds

Cost: 5 runs of one network, at most 20 epochs each. No published numbers.
"""

from experiments import quickstart

FOLDS = 5


def get_config():
    config = quickstart.get_config()
    config.data.folds = FOLDS
    config.early_stopping_epochs = 5
    return config


def get_hyper(hyper):
    return hyper.sweep("config.data.fold", range(FOLDS))
