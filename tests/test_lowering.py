"""Which rewrites a network is computed with."""

import jax
import pytest

from raunet_jax.networks.lowering import BY_PLATFORM, REWRITES, rewrites


def test_auto_is_what_the_present_platform_runs_best():
    assert rewrites("auto") == set(BY_PLATFORM[jax.default_backend()])


def test_plain_is_none_and_names_are_themselves():
    assert rewrites("plain") == set()
    assert rewrites("dots,slices,winograd") == {"dots", "slices", "winograd"}


@pytest.mark.parametrize("names", BY_PLATFORM.values(), ids=BY_PLATFORM)
def test_what_a_platform_uses_could_be_named(names):
    assert rewrites(",".join(names)) == set(names) <= REWRITES.keys()


def test_a_name_that_is_none_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="names 'fast'; choose auto, plain, or .* dots, tree_sum, .*shift_and_matmul"):
        rewrites("dots,fast")


def test_a_rewrite_of_another_is_refused_without_it():
    with pytest.raises(ValueError, match="names subpixel without split, which it builds on; name both"):
        rewrites("subpixel")
