"""BraTS 2017 (Menze et al., IEEE TMI 2015; Bakas et al., Sci Data 2017): gliomas with outlines, on the SRI24 grid."""

from functools import partial

from datamodules.brain.brats import find_cases

card = {
    "title": "brain tumours, T1 T1ce T2 FLAIR with outlines, 2017",
    "access": "braintumorsegmentation.org",
    "licence": "registration; research only",
    "layout": "HGG LGG",
    "official": {"volumes": 285},
    "phantom": "brats_graded",
    "config": "data/brats17",
    "images": "slices or volumes",
    "subject": "the case",
    "protocol": "multi-task paper: T2, all 285 training cases, slices and voxels",
    "leaks": "years share cases; slices without tumour still show its mass effect",
    "role": "ill",
    "sequences": ("t1", "t2", "flair"),
    "labels": (0, 1, 2, 4),
    "cradl": "padded",
    "case": "Brats17_{site}_1",
}
find = partial(find_cases, prefix="Brats17_")
