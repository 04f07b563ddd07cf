"""BraTS 2021 (Baid et al., 2021): gliomas with outlines, on the SRI24 grid."""

from functools import partial

from datamodules.brain.brats import find_cases

card = {
    "title": "brain tumours, T1 T1ce T2 FLAIR with outlines, 2021",
    "access": "synapse.org syn25829067",
    "licence": "registration; research only",
    "layout": "BraTS2021_*",
    "steps": (
        "sign in at synapse.org, register for the challenge syn25829067 and wait for the approval",
        "fetch the training data of task 1",
    ),
    "official": {"volumes": 1251},
    "phantom": "brats",
    "config": "data/brats21",
    "images": "slices or volumes",
    "subject": "the case",
    "protocol": "",
    "leaks": "years share cases; slices without tumour still show its mass effect",
    "role": "ill",
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1, 2, 4),
    "case": "BraTS2021_{gaps:05d}",
}
find = partial(find_cases, prefix="BraTS2021_")
