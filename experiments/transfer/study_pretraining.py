r"""The pretrained networks of experiments/transfer/study.py, which has the commands.

Cost: 4 networks, 5 epochs each of 5,000 to 10,000 pictures: 15 minutes on two CPU cores. No
published numbers.
"""

from experiments.transfer import study


def get_config():
    config = study.get_config()
    config.epochs = 5
    config.eval_every_epochs = 1
    config.batch_size = 64
    config.learning_rate = 0.1
    return config


def get_hyper(hyper):
    directories = [f"{study.ROOT}/pictures/pretraining/{name}" for name in study.PRETRAININGS]
    return hyper.sweep("config.data.directory", directories)
