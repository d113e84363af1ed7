"""Numbers that others published: each lives here once, and never beside measured ones.

Those of figures were read out of the vector graphics of the PDF, marker against axis, so they are
accurate to plotting precision.
"""

# TPAMI 2019, Figure 7: GB to train DenseNet-BC, k = 12, on CIFAR-10 in batches of 64, by depth L.
# "Naive" shares the memory of gradients already.
MEMORY_BY_DEPTH = {
    "naive LuaTorch": {
        34: 0.96, 64: 1.75, 94: 2.81, 124: 4.08, 154: 5.61, 184: 7.34, 214: 9.37, 244: 11.62,
    },
    "naive PyTorch": {
        34: 0.88, 64: 1.51, 94: 2.43, 124: 3.60, 154: 5.01, 184: 6.51, 214: 8.36, 244: 10.70,
        256: 11.62,
    },
    "efficient LuaTorch": {
        34: 0.79, 64: 1.13, 94: 1.56, 124: 2.21, 154: 3.02, 184: 3.96, 214: 5.06, 244: 6.31,
        274: 7.71, 304: 9.25, 334: 10.93, 346: 11.65,
    },
    "efficient PyTorch": {
        34: 0.79, 64: 1.10, 94: 1.45, 124: 1.75, 154: 2.08, 184: 2.55, 214: 3.15, 244: 3.82,
        274: 4.57, 304: 5.30, 334: 6.28, 364: 7.25, 394: 8.30, 424: 9.41, 454: 10.61, 478: 11.61,
    },
}  # fmt: skip

# README of efficient_densenet_pytorch: DenseNet-BC, L = 100, k = 12, on CIFAR-10 in batches of 64,
# on a Pascal Titan X.
EFFICIENT_DENSENET_PYTORCH = {
    "naive": {"memory_gb": 2.863, "step_seconds": 0.165},
    "efficient": {"memory_gb": 1.605, "step_seconds": 0.207},
}
