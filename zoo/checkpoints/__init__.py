"""Reading checkpoints, ours and the original authors', without running anything that they contain."""

CHECKPOINT_FORMAT = 1  # of this package's own; later ones are refused
