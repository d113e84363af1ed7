"""How the networks of Tables 2 and 3 were trained, family by family.

Facts come from the papers and their authors' code. Where those are silent, a comment says what was
chosen here.
"""

from ml_collections import ConfigDict

from densenet_jax.errors import InputError
from densenet_jax.train.config import base_config
from experiments.published import TABLE2

DATA = {"c10": "cifar10", "c100": "cifar100", "svhn": "svhn"}


def table2(row: str, column: str, model: str) -> ConfigDict:
    """The base config with the network called `model` and the data of a column.

    Raises InputError if the table has no such cell.
    """
    columns = TABLE2[row].errors
    if column not in columns:
        raise InputError(
            f"Table 2 has no {column!r} for {row}: choose one of {', '.join(columns)}."
        )
    config = base_config()
    config.model.name = model
    config.data.name = DATA[column.rstrip("+")]
    config.data.augment = column.endswith("+")
    return config


def set_step_epochs(config: ConfigDict, epochs: int, *drops: float) -> None:
    """Trains for `epochs`, and drops the learning rate in these epochs, counted from 1."""
    config.epochs = epochs
    config.learning_rate_drops = tuple(drop / epochs for drop in drops)


def set_validation(config: ConfigDict, images: int) -> None:
    """Reports the test error of the epoch that is best on so many training images left out."""
    config.data.holdout = images
    config.report = "best_validation"


def densenet(row: str, column: str) -> ConfigDict:
    """Section 4.2 of the CVPR paper."""
    config = table2(row, column, row)
    if not config.data.augment:
        config.model.dropout_rate = 0.2
    if column == "svhn":
        config.epochs = 40
        set_validation(config, 6_000)
    return config


def resnet(row: str, column: str) -> ConfigDict:
    """He et al.: 64,000 steps, a tenth of the rate from 32,000 and from 48,000 on."""
    config = table2(row, column, "resnet110")
    config.batch_size = 128
    config.epochs = 164
    config.nesterov = False
    # 400 steps at a tenth of the rate.
    config.warmup_epochs = 400 / 391
    return config


def stochastic_depth(row: str, column: str, model: str = "resnet110") -> ConfigDict:
    """Huang et al., ECCV 2016, with their shortcut of pooling; the survival is left to the row."""
    config = table2(row, column, model)
    config.batch_size = 128
    config.epochs = 500
    config.model.shortcut = "pool"
    set_validation(config, 5_000)
    if column == "svhn":
        # 152 layers. They validate every 200 steps, here it is every epoch.
        config.model.block_config = (25, 25, 25)
        config.epochs = 50
        config.learning_rate_drops = (0.6, 0.7)
        set_validation(config, 6_000)
    return config


def wide_resnet(row: str, column: str, model: str) -> ConfigDict:
    """Zagoruyko and Komodakis: the early results that Table 2 shows are on whitened images."""
    config = table2(row, column, model)
    config.batch_size = 128
    config.weight_decay = 5e-4
    config.learning_rate_drop_factor = 0.2
    set_step_epochs(config, 200, 60, 120, 160)
    config.data.drop_last = True
    config.data.padding_mode = "reflect"
    config.data.preprocessing = "gcn_zca"
    if column == "svhn":
        config.learning_rate = 0.01
        config.learning_rate_drop_factor = 0.1
        set_step_epochs(config, 160, 80, 120)
        config.data.preprocessing = "standardize"
    return config


def preactivation_resnet(row: str, column: str) -> ConfigDict:
    """He et al., ECCV 2016, through fb.resnet.torch.

    The columns without + were run by the authors of DenseNet, who do not say how; here it is as
    with it.
    """
    config = table2(row, column, row)
    config.batch_size = 128
    set_step_epochs(config, 200, 81, 122)
    return config


def network_in_network(row: str, column: str) -> ConfigDict:
    """Lin et al., from their configuration files for cuda-convnet.

    Chosen here: the learning rate and the batch size; for SVHN, as many steps as for CIFAR, and no
    whitening, where they normalise contrast locally.
    """
    config = table2(row, column, "nin_svhn" if column == "svhn" else "nin")
    config.batch_size = 128
    config.learning_rate = 0.05
    config.learning_rate_multipliers = (("bias$", 2.0), ("^convs/8/", 0.1))
    config.weight_decay = 1e-5
    config.nesterov = False
    # 200 epochs, then 30 at a tenth of the rate and 30 at a hundredth.
    set_step_epochs(config, 260, 201, 231)
    config.data.preprocessing = "gcn_zca"
    if column == "svhn":
        config.epochs = 22
        config.data.preprocessing = "gcn"
    return config


def all_cnn(row: str, column: str) -> ConfigDict:
    """Springenberg et al.; rate and batch size, which they searched for, are those of ports."""
    config = table2(row, column, "all_cnn_c")
    config.batch_size = 256
    config.learning_rate = 0.05
    config.weight_decay = 1e-3
    config.nesterov = False
    set_step_epochs(config, 350, 200, 250, 300)
    config.data.preprocessing = "gcn_zca"
    return config


def deeply_supervised(row: str, column: str) -> ConfigDict:
    """Lee et al.: 50,000 steps with companions, 120,000 without, 30,000 at a rate of 1e-4.

    Chosen here: for SVHN, as many steps as for CIFAR.
    """
    config = table2(row, column, "dsn")
    config.batch_size = 100
    config.epochs = 33 if column == "svhn" else 400
    config.learning_rate = 0.025
    config.learning_rate_drops = (0.85,)
    config.learning_rate_drop_factor = 0.004
    config.weight_decay = 5e-4
    config.nesterov = False
    config.loss = "squared_hinge" if config.data.name == "cifar10" else "cross_entropy"
    config.data.preprocessing = "gcn"
    return config


def highway(row: str, column: str) -> ConfigDict:
    """Srivastava et al.: 200,000 steps."""
    config = table2(row, column, "highway19")
    config.batch_size = 100
    config.epochs = 400
    config.learning_rate = 0.025
    config.learning_rate_drops = (0.5, 0.75, 0.875)
    config.weight_decay = 1e-3
    config.data.crop_padding = 8
    config.data.preprocessing = "gcn"
    return config


def fractalnet(row: str, column: str) -> ConfigDict:
    """Larsson et al.: a tenth of the rate whenever the epochs left are halved.

    Chosen here: no weight decay, as they mention none.
    """
    config = table2(row, column, "fractalnet21")
    config.batch_size = 100
    config.epochs = 20 if column == "svhn" else 400
    config.learning_rate = 0.02
    config.learning_rate_drops = (0.5, 0.75, 0.875, 0.9375)
    config.weight_decay = 0.0
    config.nesterov = False
    return config


def imagenet(model: str) -> ConfigDict:
    """Section 4.2 of the CVPR paper, through fb.resnet.torch: its crops, colours and light.

    The authors trained on four GPUs, each of which normalised its part of a batch by itself.
    """
    config = base_config()
    config.model.name = model
    config.batch_size = 256
    set_step_epochs(config, 90, 31, 61)
    config.data.name = "imagenet"
    config.data.augment = True
    config.data.random_crop = "resized"
    config.data.color_jitter = 0.4
    config.data.lighting = 0.1
    config.data.ten_crops = True
    config.model.bn_group_size = 64
    return config
