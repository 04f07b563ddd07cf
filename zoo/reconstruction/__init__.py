"""Reconstruction: the image against what a model of healthy images makes of it.

The map is a distance ``d(x, r(x))`` at each pixel, where ``r`` was trained on healthy images only: a narrow code
(autoencoder, VAE, f-AnoGAN), mixtures of stored codes (MemAE), masked patches or squares (MAE, ceVAE), removed noise
(denoising autoencoder), or a narrow code in the space of features instead of intensities (FAE). AE-U divides the error
by a predicted variance; the VAE can also follow the gradient of its loss.

They fail when ``r`` learns to copy anything it sees (a wide code), when healthy detail is lost with the lesion (a
narrow one, whose residuals at edges drown small lesions), and, with intensity distances, when a lesion is no brighter
or darker than healthy tissue. Distances of structure (SSIM) and of features answer the last.
"""
