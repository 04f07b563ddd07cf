"""From a score to a decision: calibrated on healthy cases alone, told by case.

Scores of healthy cases that training never saw say how unusual a new score is: the share of healthy cases that score as
high (:mod:`~zoo.decision.conformal`). That holds for any method and any range of scores, as long as the new case, if
healthy, is exchangeable with the calibration's. It says nothing about disease, and it fails when the population or the
scanner changes, which the drift tests look for.
"""
