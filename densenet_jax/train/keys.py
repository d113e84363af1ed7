"""The config keys, except the fields of each network: default, description and check in one row."""

import dataclasses

from densenet_jax.data.facts import FACTS
from densenet_jax.data.pictures import MAX_PIXELS, MAX_SIDE

_ARTICLES = {
    bool: "True or False",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "a tuple",
}


@dataclasses.dataclass(frozen=True)
class Key:
    """A config key. ConfigDict checks the type of a value, `accepts` the rest.

    Attributes:
      default: value in the base config; None for an optional key, where None means unset.
      help: description for `--help`.
      optional: type of an optional key.
      choices: accepted strings; empty for any string.
      bounds: smallest and largest accepted number. Data set and network limit some keys further.
      is_path: whether the value names a file or a directory.
    """

    default: object
    help: str
    optional: type | None = None
    choices: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    is_path: bool = False

    @property
    def kind(self) -> type:
        """The type of a value."""
        return self.optional or type(self.default)

    def accepts(self, value: object) -> bool:
        """Returns whether a config from any source, such as a damaged file, can hold `value`."""
        if value is None:
            return self.optional is not None
        if self.choices:
            return value in self.choices
        if self.bounds:
            least, most = self.bounds
            # Not isinstance, because True is an int.
            if type(value) is int or (type(value) is float and self.kind is float):
                return least <= value <= most
            return False
        return True

    @property
    def remedy(self) -> str:
        """The end of a message about a refused value: "use an integer from 1 to 1,024"."""
        if self.choices:
            return f"choose one of {', '.join(self.choices)}" + ", or None" * bool(self.optional)
        words = f"use {_ARTICLES[self.kind]}"
        if self.bounds:
            words += " from {} to {}".format(*map(_shown, self.bounds))
        return words


def _shown(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else f"{number:,}"


KEYS = {
    # Training.
    "epochs": Key(300, "passes over the training set", bounds=(1, 10**6)),
    "batch_size": Key(64, "images per training step, over all devices", bounds=(1, 2**20)),
    "accumulate": Key(
        1,
        "parts of a batch that a step processes one after another, which needs less memory; batch "
        "statistics are over each part",
        bounds=(1, 2**20),
    ),
    "seed": Key(
        0, "seed of initialisation, example order, augmentation and dropout", bounds=(0, 2**31 - 1)
    ),
    "init_from": Key(
        None,
        "use these weights at the start: a file with PyTorch names, hf:REPOSITORY, or a run "
        "directory; a head that does not fit keeps its initial values",
        optional=str,
        is_path=True,
    ),
    # Learning rate.
    "learning_rate": Key(0.1, "learning rate at the start of the schedule", bounds=(0, 1e38)),
    "learning_rate_schedule": Key(
        "steps",
        '"steps" multiplies the rate by learning_rate_drop_factor at each drop; "cosine" lowers '
        'the rate to final_learning_rate along half a cosine; "one_cycle" raises it from a 25th '
        "over 30 % of the steps, then lowers it to nearly 0; "
        '"plateau" multiplies it by learning_rate_drop_factor when the validation error no longer '
        "falls",
        choices=("steps", "cosine", "one_cycle", "plateau"),
    ),
    "final_learning_rate": Key(
        0.0, 'learning rate at the end of the schedule "cosine"', bounds=(0, 1e38)
    ),
    "learning_rate_cycles": Key(
        1,
        'number of equal cycles of the schedule "cosine", each with the whole half cosine; with '
        "more than 1, the checkpoint at the end of each cycle is kept as a snapshot",
        bounds=(1, 10**6),
    ),
    "learning_rate_drops": Key(
        (0.5, 0.75),
        "fractions of the epochs, rounded up to a whole epoch, at whose start the rate drops",
    ),
    "learning_rate_drop_factor": Key(
        0.1, "factor by which each drop multiplies the rate", bounds=(0, 1e38)
    ),
    "plateau_evaluations": Key(
        10,
        "number of evaluations in a row without a lower validation error, by a ten-thousandth at "
        'least, after which the schedule "plateau" drops the rate',
        bounds=(1, 10**6),
    ),
    "learning_rate_multipliers": Key(
        (),
        "pairs of a regular expression and a factor for the updates of each parameter whose path, "
        'such as "convs/8/bias", contains a match; to keep weights, set freeze',
    ),
    "layer_decay": Key(
        1.0,
        "factor of the learning rate from each block to the block before it; the classifier has "
        "the full rate",
        bounds=(0, 1),
    ),
    "warmup_epochs": Key(
        0.0, "epochs of warm-up, which replaces the beginning of the schedule", bounds=(0, 999_999)
    ),
    "warmup": Key(
        "constant",
        'rate of the warm-up: "constant" stays at warmup_learning_rate, "linear" rises from it to '
        "learning_rate",
        choices=("constant", "linear"),
    ),
    "warmup_learning_rate": Key(
        0.01, "learning rate during the warm-up, or at its beginning", bounds=(0, 1e38)
    ),
    # Averages of the weights.
    "ema_decay": Key(
        0.0,
        "also keep an exponential moving average of the weights, of which each step keeps this "
        "share; it is the network of the run; 0: off",
        bounds=(0, 0.999999),
    ),
    "swa_epochs": Key(
        0,
        "also keep the mean of the weights at the ends of the last N epochs, with running "
        "statistics recomputed; it is the network of the run; 0: off",
        bounds=(0, 10**6),
    ),
    # Freezing.
    "freeze": Key(
        None,
        "leave the parameters and the running statistics as they are whose path, such as "
        '"blocks/0/3/norm1/mean", contains a match of this regular expression; "all-but-head" '
        "trains the classifier alone",
        optional=str,
    ),
    "freeze_epochs": Key(
        0, "train every parameter after N epochs; 0: freeze to the end", bounds=(0, 10**6 - 1)
    ),
    # The optimiser.
    "optimizer": Key(
        "sgd",
        'optimiser; "muon" is for kernels of convolutions, with Adam for the other parameters; '
        '"rmsprop" is that of TensorFlow',
        choices=("sgd", "adamw", "lamb", "lion", "muon", "rmsprop"),
    ),
    "weight_decay": Key(
        1e-4,
        "weight decay: L2 for sgd and rmsprop, for others decoupled from the gradient and "
        "multiplied by the learning rate",
        bounds=(0, 1e38),
    ),
    "weight_decay_on": Key(
        "all",
        'parameters with weight decay: "all", or "kernels" of convolutions and linear layers',
        choices=("all", "kernels"),
    ),
    "momentum": Key(0.9, "momentum of sgd and rmsprop", bounds=(0, 1e38)),
    "nesterov": Key(True, "use Nesterov momentum in sgd"),
    "betas": Key(
        (),
        "decay rates of the two moments of adamw, lamb and lion, and of the Adam in muon; empty: "
        "those of PyTorch and timm",
    ),
    "epsilon": Key(
        None,
        "number added to the divisor of adamw, lamb, muon and rmsprop; unset: that of PyTorch and "
        "timm",
        optional=float,
        bounds=(0, 1),
    ),
    "clip_norm": Key(
        0.0, "largest norm of the gradient of all parameters; 0: not limited", bounds=(0, 1e38)
    ),
    # The loss.
    "loss": Key(
        "cross_entropy",
        'training loss; "squared_hinge" separates each class from the rest; "sigmoid" is for '
        "pictures with several labels, see data.labels",
        choices=("cross_entropy", "squared_hinge", "sigmoid"),
    ),
    "class_weights": Key(
        None,
        'weights of the classes in the training loss: "auto" balances the classes, "1,2.5,1" '
        'weighs each class; with the loss "sigmoid", weights of the pictures that have each label',
        optional=str,
    ),
    "label_smoothing": Key(
        0.0,
        "share of the target that is spread equally over all classes; cross_entropy only",
        bounds=(0, 1),
    ),
    "companion_weight": Key(
        0.001, "initial weight of companion losses, for networks that have them", bounds=(0, 1e38)
    ),
    "companion_fade": Key(
        0.25,
        "fraction of the epochs after which the weight of companion losses is 0",
        bounds=(0, 1e38),
    ),
    # Arithmetic.
    "dtype": Key(
        "float32",
        'type of convolutions and feature maps; "float64" needs JAX_ENABLE_X64=1',
        choices=("float32", "bfloat16", "float64"),
    ),
    "memory_gb": Key(
        0.0,
        "choose model.remat so that a training step needs at most so much memory of each device, "
        "in GB, and recomputes no more than necessary; 0: leave model.remat",
        bounds=(0, 1e6),
    ),
    "matmul_precision": Key(
        None,
        "JAX's precision of float32 products and convolutions; unset: JAX's default, which is TF32 "
        "on NVIDIA GPUs and bfloat16 on TPUs",
        optional=str,
        # Names of `jax.default_matmul_precision`, without the names of single algorithms.
        choices=("default", "high", "highest", "bfloat16", "tensorfloat32", "float32"),
    ),
    "deterministic": Key(
        False,
        "on GPUs: use only kernels that give the same bits on each run, and choose them without "
        "autotuning; steps may be slower",
    ),
    "steps_per_dispatch": Key(
        0,
        "training steps per dispatch; 0: 1 on CPU, elsewhere up to 100, if possible a divisor of "
        "the steps in an epoch; streamed pictures always use 1",
        bounds=(0, 10**6),
    ),
    # Evaluation and checkpoints.
    "eval_batch_size": Key(250, "images per evaluation step", bounds=(1, 2**20)),
    "eval_every_epochs": Key(1, "evaluate every N epochs, and at the end", bounds=(1, 10**6)),
    "checkpoint_every_epochs": Key(
        10, "save a checkpoint every N epochs, and at the end", bounds=(1, 10**6)
    ),
    "early_stopping_epochs": Key(
        0,
        "end the run at the first evaluation N or more epochs after the epoch with the lowest "
        "validation error; 0: train all epochs",
        bounds=(0, 10**6),
    ),
    "report": Key(
        "last_epoch",
        'epoch whose test error is the result; "best_validation" is the epoch with the lowest '
        "validation error",
        choices=("last_epoch", "best_validation"),
    ),
    # The network. Each field of its config is an optional key model.FIELD.
    "model.name": Key(None, "network of the catalogue, such as densenet_bc_k12_d100", optional=str),
    # Data.
    "data.name": Key(None, f"data set: {', '.join(FACTS)} or folder", optional=str),
    "data.directory": Key(
        None,
        "directory of the data set; unset: the set's usual directory",
        optional=str,
        is_path=True,
    ),
    "data.labels": Key(
        None,
        'CSV file with the labels of data set "folder": a line "path,LABEL,LABEL,..." and then one '
        "for each picture, with 1, 0 or nothing (unknown) for each label",
        optional=str,
        is_path=True,
    ),
    "data.holdout": Key(0, "training images held out for validation", bounds=(0, 2**31 - 1)),
    "data.holdout_stratified": Key(
        False,
        "hold out a random choice of data.holdout images, the same in each run, with the same "
        "share of each class",
    ),
    "data.folds": Key(
        0,
        "divide the training images into N folds, each with the same share of each class, and "
        "validate on one of them; 0: no folds",
        bounds=(0, 2**20),
    ),
    "data.fold": Key(
        0, "number of the fold that validates, from 0; the others train", bounds=(0, 2**20 - 1)
    ),
    "data.examples": Key(
        0,
        "use only the first N training images, which data.folds then divides; 0 uses all; a "
        "synthetic set grows to N",
        bounds=(0, 2**31 - 1),
    ),
    "data.image_size": Key(
        224, 'height and width of the images of data set "folder", in pixels', bounds=(1, MAX_SIDE)
    ),
    "data.preprocessing": Key(
        "standardize",
        '"standardize" subtracts the mean of each channel and divides by its standard deviation; '
        '"gcn" normalises the contrast of each image; "gcn_zca" also whitens the images',
        choices=("standardize", "gcn", "gcn_zca"),
    ),
    "data.drop_last": Key(False, "leave out the short last batch of an epoch"),
    "data.augment": Key(
        False,
        "change training images at random, as set by random_crop, crop_padding, padding_mode, "
        "flip, color_jitter, lighting, trivial_augment, random_augment, mixup, cutmix and "
        "random_erasing",
    ),
    "data.random_crop": Key(
        "padded",
        '"padded" crops the padded image; "resized" crops a box of random size from a picture of '
        "imagenet or folder, and resizes the crop",
        choices=("padded", "resized"),
    ),
    "data.crop_padding": Key(
        4, "pixels added on each side before a padded crop", bounds=(0, MAX_SIDE)
    ),
    "data.padding_mode": Key(
        "zeros",
        "fill the added pixels with zeros, or reflect the image",
        choices=("zeros", "reflect"),
    ),
    "data.flip": Key(True, "flip half of the images left to right"),
    "data.color_jitter": Key(
        0.0, "change brightness, contrast and saturation by up to this fraction", bounds=(0, 1)
    ),
    "data.lighting": Key(
        0.0,
        "standard deviation of random light along the principal components of colour",
        bounds=(0, 1e6),
    ),
    "data.trivial_augment": Key(
        False,
        "also change each training image by one of the 14 changes of TrivialAugment, before padded "
        "crops and flips",
    ),
    "data.random_augment": Key(
        0.0,
        "also change each training image by two random operations of RandAugment of about this "
        "strength, before padded crops and flips; 0: none; usual: 5 to 9",
        bounds=(0, 10),
    ),
    "data.mixup": Key(
        0.0,
        "mix each training image with another; its share is drawn from Beta(a, a) for this number "
        "a; 0: off; with data.cutmix, each image is changed by one of both",
        bounds=(0, 1e6),
    ),
    "data.cutmix": Key(
        0.0,
        "fill a box of each training image from another; the share of the rest is drawn from "
        "Beta(a, a) for this number a; 0: off",
        bounds=(0, 1e6),
    ),
    "data.random_erasing": Key(
        0.0, "share of the training images of which a box is filled with noise", bounds=(0, 1)
    ),
    "data.ten_crops": Key(False, "also evaluate pictures with ten crops at the end"),
    "data.workers": Key(
        None,
        "processes that read pictures; 0: threads; unset: chosen for the host",
        optional=int,
        bounds=(0, 1024),
    ),
    "data.skip_broken": Key(False, "skip pictures that cannot be read"),
    "data.max_pixels": Key(
        MAX_PIXELS, "largest picture that is decoded, in pixels", bounds=(1, 2**40)
    ),
}
PATHS = tuple(key for key, row in KEYS.items() if row.is_path)
