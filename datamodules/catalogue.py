"""The data sets by name: what they are, where they come from, what their root looks like. Imports nothing heavy."""

from typing import NamedTuple


class Entry(NamedTuple):
    """One data set.

    Attributes:
        title: what it is.
        access: where the user gets it.
        layout: what the root holds.
        config: the shipped configuration that uses it, empty for auxiliary sets.
        official: number of images, films or cases by part, as published.
    """

    title: str
    access: str
    layout: str
    config: str
    official: dict[str, int]


_BRATS = "brain tumours, T1 T1ce T2 FLAIR with outlines, "

CATALOGUE: dict[str, Entry] = {
    "folder": Entry("your own images", "-", "train/normal test/normal test/anomalous [masks]", "data/folder", {}),
    "medmnist": Entry("MedMNIST v2, 2-D subsets", "medmnist.com", "<subset>.npz", "data/medmnist", {}),
    "hyper_kvasir": Entry(
        "colonoscopy, polyps outlined",
        "datasets.simula.no/hyper-kvasir",
        "labeled-images segmented-images",
        "data/hyper_kvasir",
        {"healthy": 2157, "anomalous": 1000},
    ),
    "covidx": Entry("chest X-rays, COVID-19", "kaggle andyczhao/covidx-cxr2", "train test *.txt", "data/covidx", {}),
    "vindr_cxr": Entry(
        "chest films, boxes by radiologists",
        "physionet.org/content/vindr-cxr",
        "train test annotations",
        "data/vindr_cxr",
        {"train films": 15000, "test films": 3000},
    ),
    "hcp": Entry(
        "healthy brains, T1 T2, 0.7 mm",
        "humanconnectome.org (terms of use)",
        "<id>/T1w/T2w_acpc_dc_restore_brain.nii.gz",
        "data/brats17",
        {"volumes": 1113},
    ),
    "camcan": Entry(
        "healthy brains, T1 T2",
        "camcan-archive.mrc-cbu.cam.ac.uk",
        "sub-CC*/anat/sub-CC*_T1w*.nii.gz, skull-stripped",
        "data/brain_mri",
        {},
    ),
    "ixi": Entry(
        "healthy brains, T1 T2", "brain-development.org", "IXI*-T1.nii.gz, skull-stripped", "data/brain_mri", {}
    ),
    "mood_brain": Entry(
        "healthy brains", "synapse.org syn21343101", "brain_train/*.nii.gz", "data/brain_mri", {"volumes": 800}
    ),
    "brats17": Entry(_BRATS + "2017", "braintumorsegmentation.org", "HGG LGG", "data/brats17", {"volumes": 285}),
    "brats20": Entry(
        _BRATS + "2020", "kaggle awsaf49/brats2020", "BraTS20_Training_*", "data/brats20", {"volumes": 369}
    ),
    "brats21": Entry(_BRATS + "2021", "synapse.org syn25829067", "BraTS2021_*", "data/brats21", {"volumes": 1251}),
    "brats23": Entry(_BRATS + "2023", "synapse.org syn51156910", "BraTS-GLI-*", "data/brain_mri", {"volumes": 1251}),
    "isles15": Entry(
        "strokes, T1 T2 FLAIR DWI with outlines",
        "zenodo.org 17736412",
        "SISS2015_Training",
        "data/isles15",
        {"volumes": 28},
    ),
    "mood_abdomen": Entry(
        "healthy abdomens, CT, source of blends",
        "synapse.org syn21343101",
        "abdom_train/*.nii.gz",
        "",
        {"volumes": 550},
    ),
    "natural_images": Entry("photographs, source of blends", "image-net.org", "train/n########/*.JPEG", "", {}),
}

PHANTOM_PRESETS = ("smoke", "small", "demo", "full-shape")
