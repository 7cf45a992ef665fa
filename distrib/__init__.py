"""distrib: distributed training of image classifiers that withstand adversarial attack.

Start reading at :mod:`distrib.step`, the saddle-point problem of Madry et al. (arXiv 1706.06083) on one screen.
"""

__version__ = "0.2.0"
