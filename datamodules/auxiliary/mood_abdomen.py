"""MOOD, abdominal part (Zimmerer et al., IEEE TMI 2022): healthy abdomens in CT, 512^3 voxels in [0, 1]."""

card = {
    "title": "healthy abdomens, CT, source of blends",
    "access": "synapse.org syn21343101",
    "licence": "by registration, terms of the challenge",
    "layout": "abdom_train/*.nii.gz",
    "steps": (
        "sign in at synapse.org and join the challenge syn21343101",
        "fetch abdom_train.zip from its files",
    ),
    "official": {"volumes": 550},
    "phantom": "mood_abdomen",
    "images": "volumes",
    "subject": "the number of the file",
}
