"""Synthetic anomalies: the training signal of the self-supervised methods and of label-free validation.

Four independent parts: *shapes* and their placement (:mod:`zoo.synthetic.shapes`), *operations* that change the image
inside a box (:mod:`~zoo.synthetic.blending`, :mod:`~zoo.synthetic.deformation`, :mod:`~zoo.synthetic.intensity`),
*labels* that say how much was changed (:mod:`~zoo.synthetic.labels`) and *tasks* that combine them
(:mod:`~zoo.synthetic.tasks`). Operations are pure functions of image, box and explicit parameters; whatever is random
is drawn beside them from an explicit generator.
Masks and images are never changed in place. The same code serves 2-D and 3-D.

A new task is a class with a ``draw`` of its parameters and a call of an operation, see :class:`SmoothIntensity`.
"""

from zoo.synthetic.blending import poisson_blend
from zoo.synthetic.deformation import sink_map, source_map
from zoo.synthetic.labels import anomaly_label
from zoo.synthetic.tasks import (
    InterPoissonBlend,
    IntraPoissonBlend,
    Sink,
    SmoothIntensity,
    Source,
    synthesise,
)

__all__ = [
    "InterPoissonBlend",
    "IntraPoissonBlend",
    "Sink",
    "SmoothIntensity",
    "Source",
    "anomaly_label",
    "poisson_blend",
    "sink_map",
    "source_map",
    "synthesise",
]
