"""How undecided the networks are, voxel by voxel."""

import numpy as np

from raunet_jax.inference.cascade import Segmentation
from raunet_jax.tasks import stage_of


def uncertainty_map(found: Segmentation, stage: str) -> np.ndarray:
    """Binary entropy in bits, float32 (z, y, x), of the last `stage`'s mean foreground probability over its folds.

    1 where the folds together are undecided (probability 0.5), 0 where they are sure, and 0 where nothing was
    predicted: outside the box that the stage looked at, or everywhere when it had no liver to look into. With a single
    fold it is the entropy of that one model's probability.
    """
    probability = found.probabilities.get(stage_of(stage).map_name)
    if probability is None:
        return np.zeros(found.labels.shape, np.float32)
    return entropy_bits(probability)


def entropy_bits(probability: np.ndarray) -> np.ndarray:
    """-p log2(p) - (1 - p) log2(1 - p) of (z, y, x) probabilities, float32; 0 log2(0) = 0."""
    from scipy.special import entr  # imported here, as few ask for this map

    entropy = np.empty(probability.shape, np.float32)
    for slice_, into in zip(probability, entropy, strict=True):  # a slice at a time: a long CT's map takes a GB
        p = np.clip(slice_, 0, 1)  # interpolation may round to just above 1
        into[...] = (entr(p) + entr(1 - p)) / np.log(2)
    return entropy
