"""Frozen features: the image's features under a backbone trained elsewhere, against those of healthy images.

The map is a distance in the space ``f(x)`` of intermediate layers: to a Gaussian at each place (PaDiM), to the nearest
healthy patch (PatchCore), or to a reconstruction of the features (DFR). The backbone is never trained.

They fail when the backbone's features do not tell the lesion from healthy tissue, which is common far from natural
images (and certain with random weights), and when a lesion is smaller than the stride of the layers.
"""
