"""Statistics of intensities: the floor that the others must beat.

The map is a number that needs no network: how many standard deviations a voxel lies from the healthy mean at its place
(voxel-wise z-score, which wants registered images), or how bright it is beside the rest of its image
(histogram equalisation and threshold). ``random`` is noise, the last row of every table.

They fail when lesions are no brighter or darker than healthy tissue, and the first also when anatomy varies.
"""
