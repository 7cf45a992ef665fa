"""How the epochs of a training are compared on images that are held out, and what is done where they get worse."""

from typing import Annotated, Literal

from pydantic import Field

from distrib.attack import PGD
from distrib.threat import Threat
from distrib.values import Value


class Validation(Value):
    """How epochs are compared: robust accuracy on images held out from the train part; the best one is registered."""

    threat: Threat | None = None
    """What the adversary may do; None: the evaluation's threat."""
    attack: PGD = PGD()
    """How it looks for the worst image; if left out: PGD-10, whatever training uses."""
    max_examples: Annotated[int, Field(ge=1)] = 1000
    """How many of the held-out images, drawn with the job's seed: the same ones at every epoch."""
    every: Annotated[int, Field(ge=1)] = 1
    """Epochs from one comparison to the next; the last epoch always takes part."""
    min_clean_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.0
    """An epoch below it is not chosen as the best one while there is one above it."""
    on_overfitting: Literal["warn", "stop", "roll_back"] = "warn"
    """What is done where robust accuracy falls while training improves: suddenly, by more than half (catastrophic
    overfitting, Wong et al., arXiv 2001.03994), or slowly, at three comparisons in turn by two points or more (robust
    overfitting, Rice et al., arXiv 2002.11569); each by more than two standard errors. warn: a line; stop: training
    ends there; roll_back: the state of the best epoch takes the place of this one's, and training goes on at the
    learning rate that the schedule is at."""
