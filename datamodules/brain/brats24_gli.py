"""BraTS 2024, gliomas after treatment (de Verdier et al., 2024): outlines of tumour and resection cavity."""

from functools import partial

from datamodules.brain.brats import find_cases

card = {
    "title": "gliomas after treatment, T1 T1ce T2 FLAIR with outlines, 2024",
    "access": "synapse.org syn53708249",
    "licence": "registration; research only",
    "layout": "BraTS-GLI-*",
    "official": {"volumes": 1350},
    "phantom": "brats",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "the patient: the number without the time point",
    "leaks": "several time points of a patient; the cavity of the operation counts as a finding",
    "role": "ill",
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1, 2, 3, 4),
    "case": "BraTS-GLI-{even:05d}-100",
}
find = partial(find_cases, prefix="BraTS-GLI-")
