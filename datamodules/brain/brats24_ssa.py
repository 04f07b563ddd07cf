"""BraTS 2024, Sub-Saharan Africa (Adewole et al., 2023): gliomas with outlines, scans of low field and resolution."""

from functools import partial

from datamodules.brain.brats import find_cases

card = {
    "title": "gliomas in Africa, T1 T1ce T2 FLAIR with outlines, 2024",
    "access": "synapse.org syn53708249",
    "licence": "registration; research only",
    "layout": "BraTS-SSA-*",
    "official": {"volumes": 60},
    "phantom": "brats",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "the patient: the number without the time point",
    "leaks": "lower resolution than that of any healthy source",
    "role": "ill",
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1, 2, 3),
    "case": "BraTS-SSA-{even:05d}-000",
}
find = partial(find_cases, prefix="BraTS-SSA-")
