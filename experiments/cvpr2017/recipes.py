"""Training recipes of the networks of Tables 2 and 3, one function for each family.

Facts come from the papers and from their authors' code. A docstring or a comment marks the values
chosen here because no source states them.
"""

from ml_collections import ConfigDict

from densenet_jax.errors import InputError
from densenet_jax.train.config import base_config
from experiments.published import TABLE2

DATA = {"c10": "cifar10", "c100": "cifar100", "svhn": "svhn"}


def table2(row: str, column: str, model: str) -> ConfigDict:
    """Returns the base config with the network called `model` and the data of a column.

    Raises InputError if the table has no cell for the row and the column.
    """
    columns = TABLE2[row].errors
    if column not in columns:
        raise InputError(f"Table 2 has no {column!r} for {row}: choose one of {', '.join(columns)}")
    config = base_config()
    config.model.name = model
    config.data.name = DATA[column.rstrip("+")]
    config.data.augment = column.endswith("+")
    return config


def set_step_epochs(config: ConfigDict, epochs: int, *drops: float) -> None:
    """Sets the number of epochs and the epochs, counted from 1, that drop the learning rate."""
    config.epochs = epochs
    config.learning_rate_drops = tuple(drop / epochs for drop in drops)


def set_validation(config: ConfigDict, images: int) -> None:
    """Holds out training images and reports the test error of the best epoch on them."""
    config.data.holdout = images
    config.report = "best_validation"


def densenet(row: str, column: str) -> ConfigDict:
    """Returns the config of section 4.2 of the CVPR paper."""
    config = table2(row, column, row)
    if not config.data.augment:
        config.model.dropout_rate = 0.2
    if column == "svhn":
        config.epochs = 40
        set_validation(config, 6_000)
    return config


def resnet(row: str, column: str) -> ConfigDict:
    """Returns the config of He et al.: 64,000 steps with drops at 32,000 and 48,000."""
    config = table2(row, column, "resnet110")
    config.batch_size = 128
    config.epochs = 164
    config.nesterov = False
    # The first 400 steps run at a tenth of the rate.
    config.warmup_epochs = 400 / 391
    return config


def stochastic_depth(row: str, column: str, model: str = "resnet110") -> ConfigDict:
    """Returns the config of Huang et al., ECCV 2016. The row sets the survival probability."""
    config = table2(row, column, model)
    config.batch_size = 128
    config.epochs = 500
    config.model.shortcut = "pool"
    set_validation(config, 5_000)
    if column == "svhn":
        # 152 layers. Huang et al. validate every 200 steps instead of every epoch.
        config.model.block_config = (25, 25, 25)
        config.epochs = 50
        config.learning_rate_drops = (0.6, 0.7)
        set_validation(config, 6_000)
    return config


def wide_resnet(row: str, column: str, model: str) -> ConfigDict:
    """Returns the config of Zagoruyko and Komodakis for their early results on whitened images."""
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
    """Returns the config of He et al., ECCV 2016, with the code of fb.resnet.torch.

    The authors of DenseNet ran the columns without +, by a recipe that they do not state. Chosen
    here: the recipe of the columns with +.
    """
    config = table2(row, column, row)
    config.batch_size = 128
    set_step_epochs(config, 200, 81, 122)
    return config


def network_in_network(row: str, column: str) -> ConfigDict:
    """Returns the config of Lin et al., from their configuration files for cuda-convnet.

    Chosen here: the learning rate and the batch size. For SVHN the number of steps is that for
    CIFAR, and images are not whitened; Lin et al. normalise the contrast locally.
    """
    config = table2(row, column, "nin_svhn" if column == "svhn" else "nin")
    config.batch_size = 128
    config.learning_rate = 0.05
    config.learning_rate_multipliers = (("bias$", 2.0), ("^convs/8/", 0.1))
    config.weight_decay = 1e-5
    config.nesterov = False
    # 200 epochs, then 30 at a tenth of the rate and 30 at a hundredth of it.
    set_step_epochs(config, 260, 201, 231)
    config.data.preprocessing = "gcn_zca"
    if column == "svhn":
        config.epochs = 22
        config.data.preprocessing = "gcn"
    return config


def all_cnn(row: str, column: str) -> ConfigDict:
    """Returns the config of Springenberg et al., with rate and batch size of later ports."""
    config = table2(row, column, "all_cnn_c")
    config.batch_size = 256
    config.learning_rate = 0.05
    config.weight_decay = 1e-3
    config.nesterov = False
    set_step_epochs(config, 350, 200, 250, 300)
    config.data.preprocessing = "gcn_zca"
    return config


def deeply_supervised(row: str, column: str) -> ConfigDict:
    """Returns the config of Lee et al.

    The schedule has 50,000 steps with companions, 120,000 without, and 30,000 at a rate of 1e-4.
    Chosen here: for SVHN, the number of steps for CIFAR.
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
    """Returns the config of Srivastava et al.: 200,000 steps."""
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
    """Returns the config of Larsson et al.

    The rate drops to a tenth when half of the remaining epochs are over.
    Chosen here: no weight decay, because the paper mentions none.
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
    """Returns the config of section 4.2 of the CVPR paper, augmented as in fb.resnet.torch.

    The authors trained on four GPUs. Each GPU normalised its part of a batch separately.
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
