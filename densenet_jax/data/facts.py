"""Facts about the published image sets: shapes, classes, sizes, mean and standard deviation."""

import dataclasses

from densenet_jax.data.class_names import CLASS_NAMES
from densenet_jax.data.pictures import SIDE, CentralCrop


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about a set that are known without reading it.

    Attributes:
      image_shape: height, width and channels of an image as a network sees it.
      num_classes: number of classes.
      mean, std: mean and standard deviation per channel, on the scale of the images.
      sizes: number of images in each part of the official set.
      crop: the crop of test pictures; None if all images have one size.
      white: largest value of a pixel.
      classes: names of the classes in the order of labels, if known.
      multilabel: whether each image has several labels, one for each of `classes`.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: dict[str, int]
    crop: CentralCrop | None = None
    white: float = 255
    classes: tuple[str, ...] | None = None
    multilabel: bool = False


# Mean and std of the CIFAR sets come from the paper's code, and those of ImageNet from
# fb.resnet.torch. SVHN is only divided by 255 (section 4.1 of the paper). Mean and std of the other
# sets were computed on their training images.
FACTS = {
    "cifar10": Facts(
        image_shape=(32, 32, 3),
        num_classes=10,
        mean=(125.3, 123.0, 113.9),
        std=(63.0, 62.1, 66.7),
        sizes={"train": 50_000, "test": 10_000},
        classes=CLASS_NAMES["cifar10"],
    ),
    "cifar100": Facts(
        image_shape=(32, 32, 3),
        num_classes=100,
        mean=(129.3, 124.1, 112.4),
        std=(68.2, 65.4, 70.4),
        sizes={"train": 50_000, "test": 10_000},
        classes=CLASS_NAMES["cifar100"],
    ),
    "svhn": Facts(
        image_shape=(32, 32, 3),
        num_classes=10,
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        sizes={"train": 73_257, "extra": 531_131, "test": 26_032},
        classes=CLASS_NAMES["svhn"],
    ),
    "fashion_mnist": Facts(
        image_shape=(28, 28, 1),
        num_classes=10,
        mean=(72.9,),
        std=(90.0,),
        sizes={"train": 60_000, "test": 10_000},
        classes=CLASS_NAMES["fashion_mnist"],
    ),
    "digits": Facts(
        image_shape=(8, 8, 1),
        num_classes=10,
        mean=(4.88,),
        std=(6.02,),
        sizes={"train": 1_437, "test": 360},
        white=16,
        classes=CLASS_NAMES["svhn"],
    ),
    "synthetic": Facts(
        image_shape=(32, 32, 3),
        num_classes=10,
        mean=(124.2, 128.8, 124.3),
        std=(58.4, 58.3, 60.5),
        sizes={"train": 512, "test": 128},
    ),
    "synthetic_imagenet": Facts(
        image_shape=(224, 224, 3),
        num_classes=1000,
        mean=(123.7, 116.3, 103.5),
        std=(58.4, 57.1, 57.4),
        sizes={"train": 512, "test": 128},
    ),
    "imagenet": Facts(
        crop=CentralCrop(interpolation="bicubic"),
        image_shape=(SIDE, SIDE, 3),
        num_classes=1000,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        sizes={"train": 1_281_167, "test": 50_000},
    ),
}
