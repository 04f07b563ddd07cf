"""BraTS 2019 (Bakas et al., 2018): gliomas with outlines, on the SRI24 grid."""

from functools import partial

from datamodules.brain.brats import find_cases

card = {
    "title": "brain tumours, T1 T1ce T2 FLAIR with outlines, 2019",
    "access": "braintumorsegmentation.org",
    "licence": "registration; research only",
    "layout": "HGG LGG",
    "official": {"volumes": 335},
    "phantom": "brats_graded",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "the case",
    "leaks": "years share cases; slices without tumour still show its mass effect",
    "role": "ill",
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1, 2, 4),
    "case": "BraTS19_{site}_1",
}
find = partial(find_cases, prefix="BraTS19_")
