"""Frozen features: the image's features under a backbone trained elsewhere, against those of healthy images.

The map is a distance in the space ``f(x)`` of intermediate layers: to a Gaussian at each place (PaDiM), to the nearest
healthy patch (PatchCore), to the nearest of adapted centres (CFA), to a reconstruction of the features (DFR, reverse
distillation and its kin, UniAD, UTRAD, and of a transformer's tokens Dinomaly and INP-Former), or to those of a student
that has seen healthy images only (STFPM, MKD). Flows give a likelihood (FastFlow, CFLOW, CS-Flow), a critic an opinion
(SimpleNet). Some give scores without maps, in the space of pooled features: the distance to a Gaussian
(gaussian_density) or to the nearest images (PANDA, MSC). PANDA, MSC and ReContrast train a backbone.

They fail when the backbone's features do not tell the lesion from healthy tissue, which is common far from natural
images (and certain with random weights), and when a lesion is smaller than the stride of the layers.
"""
