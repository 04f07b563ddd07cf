"""Self-supervised methods: a network learns to find anomalies that were put into healthy images.

For a healthy image ``x`` a task draws a change and returns the altered image ``x'`` and a label ``y`` in [0, 1] for
each pixel; the network ``f`` minimises the cross-entropy (or squared error) between ``f(x')`` and ``y``. For a new
image ``f(x)`` is the anomaly map. Nothing is compared with a stored normal: normal is all that the task leaves
alone.

The tasks differ in what is put where:

- ``cutpaste`` and ``cutpaste_dense``: pixels of the image itself, pasted plainly;
- ``draem``: textures in the shape of noise, with a reconstruction beside the image;
- ``fpi``, ``pii``: the same place of another image, mixed in by pixels or by gradients; the label is the weight;
- ``nsa``: rescaled patches of other images at other places; the label says how visible the change is;
- ``confidence_aware``: many discs as many raters would draw them, with their disagreement as a second label; its
  strategy goes around any other task (:mod:`zoo.synthetic.strategy`);
- ``mood22``: foreign patches in complex shapes with soft edges;
- ``multi_task``: several tasks at once, others decide when to stop; ``ensemble`` averages its folds.

They fail where real anomalies look like none of the task's: a plain seam is learnt in minutes and teaches nothing else,
and a network trained on local changes sees no diffuse or symmetric ones. Tasks differ tenfold in difficulty, so that
equal steps favour the easy ones: see ``configs/trainer/saturation.yaml``.
"""
