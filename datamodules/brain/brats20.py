"""BraTS 2020 (Menze et al., IEEE TMI 2015; Bakas et al., 2018): gliomas with outlines, on the SRI24 grid."""

from functools import partial

from datamodules.brain.brats import find_cases

card = {
    "title": "brain tumours, T1 T1ce T2 FLAIR with outlines, 2020",
    "access": "kaggle awsaf49/brats2020",
    "licence": "registration; research only",
    "layout": "BraTS20_Training_*",
    "steps": (
        "sign in at kaggle.com and open kaggle.com/datasets/awsaf49/brats20-dataset-training-validation",
        "fetch the training data; the terms are those of the challenge",
    ),
    "official": {"volumes": 369},
    "phantom": "brats20",
    "config": "data/brats20",
    "images": "slices or volumes",
    "subject": "the case",
    "protocol": "feature autoencoder: T1 registered to SRI24, slices 55 to 134, a tenth of the slices selects",
    "leaks": "years share cases; slices without tumour still show its mass effect",
    "role": "ill",
    "default": True,
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1, 2, 4),
}
find = partial(find_cases, prefix="BraTS20_")
