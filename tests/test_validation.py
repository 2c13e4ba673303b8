"""The Dice over a fold's validation patches, and that the device is never kept waiting for it."""

import numpy as np
import pytest

from raunet_jax.training import validation


class Counts:
    """What a device returns before it has computed."""

    def __init__(self, number, events):
        self.number, self.events = number, events

    def __array__(self, dtype=None, copy=None):
        self.events.append(("fetched", self.number))
        return np.array(
            [[[self.number + 1, 2, 5], [100, 0, 0]]], np.float64
        )  # (device, b, 3), the second to be left out


@pytest.mark.parametrize("count", [0, 1, 4])
def test_a_batch_is_under_way_before_the_counts_of_the_one_before_are_fetched(monkeypatch, count):
    events = []
    monkeypatch.setattr(validation, "split_over_devices", lambda batch: batch)
    monkeypatch.setattr(validation.jax, "device_get", np.asarray)

    def step(state, batch):
        events.append(("started", batch["number"]))
        return Counts(batch["number"], events)

    batches = [{"number": number, "valid": np.array([True, False])} for number in range(count)]
    dice = validation.validation_dice(step, None, batches)
    # by hand: 2 (1 + 2 + … + n) / (n (2 + 5))
    assert dice == (pytest.approx((count + 1) / 7) if count else None)
    for number in range(count):
        assert events.index(("fetched", number)) > events.index(("started", min(number + 1, count - 1)))
