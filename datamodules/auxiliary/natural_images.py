"""Photographs in ImageNet's layout (Russakovsky et al., IJCV 2015)."""

card = {
    "title": "photographs, source of blends",
    "access": "image-net.org",
    "licence": "terms of access, research only",
    "layout": "train/n########/*.JPEG",
    "official": {},
    "phantom": "natural_images",
    "images": "pictures",
    "subject": "unknown",
    "channels": (3,),
}
