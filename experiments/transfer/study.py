r"""Does pretraining help small tasks? Scratch, linear probe, frozen blocks and fine-tuning.

python -m launch.study_pictures runs/study/pictures
python -m launch.sweep --sweep experiments/transfer/study_pretraining.py \
    --workdir runs/study/pretrained --on local
python -m launch.sweep --sweep experiments/transfer/study.py --workdir runs/study/runs --on local

The first command writes the pictures of five small tasks, from Fashion-MNIST, scikit-learn's digits
and its two photographs. Cost: 60 networks, 20 epochs each of 60 to 200 pictures: 30 minutes on two
CPU cores. Measured: experiments/results/transfer.csv. No published numbers.
"""

from experiments.transfer import folder

ROOT = "runs/study"
SIDE = 28
CLOTHES, OTHERS, SHOES = range(5), range(5, 10), (5, 7, 9)
EVERY = range(10)
# Name of a task, and the pretraining whose classes the task does not have.
TASKS = {
    "clothes": "others",
    "others": "clothes",
    "shoes": "no-shoes",
    "digits": "fashion",
    "photographs": "fashion",
}
# Classes of Fashion-MNIST of each pretraining.
PRETRAININGS = {
    "clothes": CLOTHES,
    "others": OTHERS,
    "no-shoes": tuple(set(EVERY) - set(SHOES)),
    "fashion": EVERY,
}
LOWER_BLOCKS = "^(conv0|blocks/[01]|transitions/[01])/"


def get_config():
    config = folder.get_config()
    config.eval_every_epochs = 20
    config.batch_size = 20
    config.learning_rate = 0.05
    config.model.name = "densenet_bc_k12_d22"
    config.data.image_size = SIDE
    config.data.flip = False
    config.data.crop_padding = 2
    config.data.padding_mode = "zeros"
    config.data.workers = 0
    return config


def get_hyper(hyper):
    def points(task: str, pretraining: str):
        weights = f"{ROOT}/pretrained/directory=runs-study-pictures-pretraining-{pretraining}"
        methods = [
            (None, None),
            (weights, "all-but-head"),
            (weights, LOWER_BLOCKS),
            (weights, None),
        ]
        init_from, freeze = zip(*methods, strict=True)
        return hyper.product(
            [
                hyper.sweep("config.data.directory", [f"{ROOT}/pictures/{task}"]),
                hyper.zipit(
                    [
                        hyper.sweep("config.init_from", init_from),
                        hyper.sweep("config.freeze", freeze),
                    ]
                ),
                hyper.sweep("config.seed", [0, 1, 2]),
            ]
        )

    return hyper.chainit([points(*task) for task in TASKS.items()])
