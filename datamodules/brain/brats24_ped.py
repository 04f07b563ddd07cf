"""BraTS 2024, children (Kazerooni et al., 2024): gliomas with outlines, also of cysts."""

from functools import partial

from datamodules.brain.brats import find_cases

card = {
    "title": "gliomas of children, T1 T1ce T2 FLAIR with outlines, 2024",
    "access": "synapse.org syn53708249",
    "licence": "registration; research only",
    "layout": "BraTS-PED-*",
    "official": {},
    "phantom": "brats",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "the patient: the number without the time point",
    "leaks": "healthy adults are no match for the brains of children",
    "role": "ill",
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1, 2, 3, 4),
    "case": "BraTS-PED-{even:05d}-000",
}
find = partial(find_cases, prefix="BraTS-PED-")
