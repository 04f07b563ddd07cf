"""Reading checkpoints, ours and the original authors', without running anything that they contain."""
