"""What is known about the image sets without reading them."""

import dataclasses

from densenet_jax.data.pictures import SIDE, CentralCrop


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known about a set without reading it."""

    image_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sizes: dict[str, int]  # images in each part of the official set
    crop: CentralCrop | None = None  # of sets of pictures of any size
    white: float = 255
    classes: tuple[str, ...] | None = None


# Mean and std of the CIFAR sets are those in the paper's code; SVHN is only divided by 255 (section
# 4.1 of the paper); those of the others were computed on their training images.
FACTS = {
    "cifar10": Facts(
        image_shape=(32, 32, 3),
        num_classes=10,
        mean=(125.3, 123.0, 113.9),
        std=(63.0, 62.1, 66.7),
        sizes={"train": 50_000, "test": 10_000},
    ),
    "cifar100": Facts(
        image_shape=(32, 32, 3),
        num_classes=100,
        mean=(129.3, 124.1, 112.4),
        std=(68.2, 65.4, 70.4),
        sizes={"train": 50_000, "test": 10_000},
    ),
    "svhn": Facts(
        image_shape=(32, 32, 3),
        num_classes=10,
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        sizes={"train": 73_257, "extra": 531_131, "test": 26_032},
    ),
    "fashion_mnist": Facts(
        image_shape=(28, 28, 1),
        num_classes=10,
        mean=(72.9,),
        std=(90.0,),
        sizes={"train": 60_000, "test": 10_000},
    ),
    "digits": Facts(
        image_shape=(8, 8, 1),
        num_classes=10,
        mean=(4.88,),
        std=(6.02,),
        sizes={"train": 1_437, "test": 360},
        white=16,
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
    # The constants of fb.resnet.torch.
    "imagenet": Facts(
        crop=CentralCrop(interpolation="bicubic"),
        image_shape=(SIDE, SIDE, 3),
        num_classes=1000,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        sizes={"train": 1_281_167, "test": 50_000},
    ),
}
