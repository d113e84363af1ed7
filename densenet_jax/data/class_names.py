"""The official class names of published sets, in the order of labels."""

import re

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CLASS_NAMES = {
    "cifar10": tuple(_CIFAR10.split()),
    "cifar100": tuple(_CIFAR100.split()),
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "svhn": tuple("0123456789"),
}


def label_of(name: str, text: str) -> int | None:
    """Returns the label of a class of the set `name`, or None if there is no such class.

    Args:
      text: the name of the class, whose case and punctuation are ignored, or its label, such as "7"
        or "07".
    """
    names = [_plain(known) for known in CLASS_NAMES[name]]
    if re.fullmatch("[0-9]{1,3}", text):
        return int(text) if int(text) < len(names) else None
    return names.index(_plain(text)) if _plain(text) in names else None


def _plain(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())
