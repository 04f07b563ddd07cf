"""BraTS meningiomas (LaBella et al., 2023), four sequences without skull; those of 2024 are told apart."""

from functools import partial

from datamodules.brain.brats import find_cases

_RADIOTHERAPY = (
    "BraTS-MEN-RT-",
    "a radiotherapy scan of 2024: T1ce alone, with skull",
    "give the meningiomas of 2023, BraTS-MEN-*",
)
card = {
    "title": "meningiomas, T1 T1ce T2 FLAIR with outlines",
    "access": "synapse.org syn51156910",
    "licence": "registration; research only",
    "layout": "BraTS-MEN-*",
    "official": {"volumes": 1000},
    "phantom": "brats",
    "config": "data/brain_mri",
    "images": "slices or volumes",
    "subject": "the patient: the number without the time point",
    "leaks": "tumours of the meninges press on the brain, slices beside them show it",
    "role": "ill",
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1, 2, 3),
    "case": "BraTS-MEN-{even:05d}-000",
}
find = partial(find_cases, prefix="BraTS-MEN-", refused=_RADIOTHERAPY)
