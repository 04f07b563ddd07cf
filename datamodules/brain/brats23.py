"""BraTS 2023 (Baid et al., 2021; Adewole et al., 2023): gliomas with outlines, on the SRI24 grid."""

from functools import partial

from datamodules.brain.brats import find_cases

card = {
    "title": "brain tumours, T1 T1ce T2 FLAIR with outlines, 2023",
    "access": "synapse.org syn51156910",
    "licence": "registration; research only",
    "layout": "BraTS-GLI-*",
    "official": {"volumes": 1251},
    "phantom": "brats",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "the case",
    "protocol": "",
    "leaks": "years share cases; slices without tumour still show its mass effect",
    "role": "ill",
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1, 2, 3),
    "case": "BraTS-GLI-{even:05d}-000",
}
find = partial(find_cases, prefix="BraTS-GLI-")
