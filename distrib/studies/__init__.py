"""The studies of Madry et al. (arXiv 1706.06083) as jobs: landscape, capacity, curves, transfer."""
