"""From an image and what the method expected of it to a map, and from a map to one score an image."""
