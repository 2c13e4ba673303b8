"""The Dice loss by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from raunet_jax.training.losses import dice_loss, overlap_counts

PROBABILITIES = jnp.array([[0.5, 1.0], [0.0, 0.5]]).reshape(2, 2, 1, 1)
MASK = jnp.array([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 2, 1, 1)


def test_sums_run_over_the_whole_batch():
    # sum s g = .5 + .5; sum s^2 = .25 + 1 + .25; sum g^2 = 2
    np.testing.assert_allclose(dice_loss(PROBABILITIES, MASK), 1 - 2 * 1.0 / 3.5, rtol=1e-6)


def test_per_sample_averages_the_patches_losses():
    first, second = 1 - 2 * 0.5 / (1.25 + 1), 1 - 2 * 0.5 / (0.25 + 1)
    np.testing.assert_allclose(dice_loss(PROBABILITIES, MASK, per_sample=True), (first + second) / 2, rtol=1e-6)


def test_perfect_is_zero_and_disjoint_is_one():
    assert dice_loss(MASK, MASK) == 0
    assert dice_loss(1 - MASK, MASK) == 1


def test_both_empty_is_zero_with_a_finite_gradient():
    empty = jnp.zeros((1, 2, 2, 1))
    for per_sample in (False, True):
        loss, gradient = jax.value_and_grad(dice_loss)(empty, empty, per_sample)
        assert loss == 0
        np.testing.assert_array_equal(gradient, empty)


def test_gradient_is_that_of_finite_differences():
    gradient = jax.grad(dice_loss)(PROBABILITIES, MASK)
    step = 1e-2
    for index in np.ndindex(PROBABILITIES.shape):
        above, below = (dice_loss(PROBABILITIES.at[index].add(sign * step), MASK) for sign in (1, -1))
        np.testing.assert_allclose(gradient[index], (above - below) / (2 * step), atol=1e-3)


def test_on_a_mapped_axis_loss_and_gradient_are_those_of_the_whole_batch():
    for per_sample in (False, True):

        def of_parts(probabilities, per_sample=per_sample):
            each = jax.vmap(lambda s, g: dice_loss(s, g, per_sample, "devices"), axis_name="devices")
            return each(probabilities, MASK[:, None])  # a patch a device

        losses = of_parts(PROBABILITIES[:, None])
        np.testing.assert_allclose(losses, np.full(2, dice_loss(PROBABILITIES, MASK, per_sample)), rtol=1e-6)
        gradient = jax.grad(lambda s: of_parts(s).mean())(PROBABILITIES[:, None])
        np.testing.assert_allclose(gradient[:, 0], jax.grad(dice_loss)(PROBABILITIES, MASK, per_sample), rtol=1e-5)


def test_overlap_counts_a_patch():
    counts = overlap_counts((PROBABILITIES > 0.4).astype(jnp.float32), MASK)
    np.testing.assert_array_equal(counts, [[1, 2, 1], [1, 1, 1]])  # both, predicted, reference
