"""Every exact form of a convolution against plain loops and XLA's own: values and gradients, at borders too."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from raunet_jax.networks import convolution
from raunet_jax.networks.convolution import DeferredConcat, convolve, upsample, upsample_and_concatenate
from raunet_jax.networks.lowering import BY_PLATFORM, NEEDS

SHAPES = [(2, 5, 4, 3), (1, 1, 6, 1), (2, 4, 3, 8, 3), (1, 2, 1, 1, 1), (1, 3, 2, 4, 2)]
HALVES = [(2, 3, 2, 3), (2, 2, 3, 1, 3), (1, 1, 1, 2, 1)]
CPU_FORMS = ("slices", "winograd", "im2col_kernel_grad", "matmul_transpose", "pack_width", "shift_and_matmul")
FORMS = [
    (),
    *((name, NEEDS[name]) if name in NEEDS else (name,) for name in CPU_FORMS),
    ("im2col_kernel_grad", "pack_width"),
    *sorted(set(BY_PLATFORM.values())),
]


@pytest.fixture(autouse=True)
def winograd_for_small_arrays(monkeypatch):
    monkeypatch.setattr(convolution, "WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr(convolution, "WINOGRAD_SIZE", 1)


def random(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def by_loops(x, kernel):
    """out[p] = sum over taps t of x[p + t - reach] @ kernel[t], with zeros outside."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    window = kernel.shape[:-2]
    reach = [size // 2 for size in window]
    padded = np.pad(x, [(0, 0), *((r, r) for r in reach), (0, 0)])
    out = np.zeros((*x.shape[:-1], kernel.shape[-1]))
    for tap in itertools.product(*map(range, window)):
        part = tuple(slice(t, t + size) for t, size in zip(tap, x.shape[1:-1], strict=True))
        out += padded[(slice(None), *part)] @ kernel[tap]
    return out


def xla_conv(x, kernel):
    space = "zyx"[-(x.ndim - 2) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    return jax.lax.conv_general_dilated(x, kernel, (1,) * len(space), "SAME", dimension_numbers=layout)


def repeated(x):
    """Each voxel twice along every axis, as numpy does it."""
    for axis in range(1, x.ndim - 1):
        x = jnp.repeat(x, 2, axis)
    return x


def assert_same_gradients(form, plain, arrays, shape):
    """Of a sum weighted anew at every voxel, for each of `arrays`."""
    weight = random(9, shape)
    pairs = [
        jax.jit(jax.grad(lambda arrays, function=function: jnp.sum(function(*arrays) * weight)))(arrays)
        for function in (form, plain)
    ]
    for ours, expected in zip(*pairs, strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-4)


@pytest.mark.parametrize(("window", "features"), [(3, 4), (3, 1), (1, 4)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rewrites", FORMS, ids=",".join)
def test_a_convolution_is_the_sum_over_taps_and_has_its_gradients(rewrites, shape, window, features):
    x, kernel = random(0, shape), random(1, (window,) * (len(shape) - 2) + (shape[-1], features))
    out = jax.jit(lambda x, kernel: convolve(x, kernel, rewrites))(x, kernel)
    np.testing.assert_allclose(out, by_loops(x, kernel), atol=1e-4)
    assert_same_gradients(
        lambda x, kernel: convolve(x, kernel, rewrites), xla_conv, (x, kernel), (*shape[:-1], features)
    )


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("rewrites", [form for form in FORMS if "split" in form], ids=",".join)
def test_a_convolution_of_two_unjoined_halves_is_that_of_the_joined_array(rewrites, half, window):
    size = (half[0], *(2 * voxels for voxels in half[1:-1]))
    low, skip, kernel = (
        random(0, half),
        random(1, (*size, 2)),
        random(2, (window,) * (len(half) - 2) + (half[-1] + 2, 4)),
    )
    joined = upsample_and_concatenate(low, skip, rewrites)
    assert isinstance(joined, DeferredConcat)
    expected = by_loops(jnp.concatenate([repeated(low), skip], -1), kernel)
    np.testing.assert_allclose(convolve(joined, kernel, rewrites), expected, atol=1e-4)
    assert_same_gradients(
        lambda low, skip, kernel: convolve(DeferredConcat(low, skip), kernel, rewrites),
        lambda low, skip, kernel: xla_conv(jnp.concatenate([repeated(low), skip], -1), kernel),
        (low, skip, kernel),
        (*size, 4),
    )


def test_without_the_rewrite_halves_are_joined_at_once():
    low, skip = random(0, (1, 2, 3, 2)), random(1, (1, 4, 6, 1))
    np.testing.assert_array_equal(upsample_and_concatenate(low, skip), np.concatenate([repeated(low), skip], -1))


def test_a_subpixel_form_multiplies_a_quarter_or_less_of_what_the_plain_form_does():
    low, skip, kernel = random(0, (1, 8, 8, 8, 4)), random(1, (1, 16, 16, 16, 4)), random(2, (3, 3, 3, 8, 4))

    def work(rewrites):
        """Multiplications of all convolutions of the upsampled half."""
        half = lambda low, kernel: convolution._convolve_upsampled(low, kernel, frozenset(rewrites))  # noqa: E731
        equations = jax.make_jaxpr(half)(low, kernel[..., :4, :]).eqns
        return sum(
            np.prod(equation.outvars[0].aval.shape) * np.prod(equation.invars[1].aval.shape[:-1])
            for equation in _all(equations)
            if equation.primitive.name == "conv_general_dilated"
        )

    assert convolve(DeferredConcat(low, skip), kernel, BY_PLATFORM["cpu"]).shape == (1, 16, 16, 16, 4)
    plain = work(())
    assert plain == 16**3 * 4 * 27 * 4
    borders = (9 / 8) ** 3  # the small array is computed one voxel beyond its end
    assert work(BY_PLATFORM["gpu"]) <= plain * 8 / 27 * borders
    assert work(BY_PLATFORM["cpu"]) <= plain * 6 / 27 * borders


def _all(equations):
    for equation in equations:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _all(inner.eqns)


@pytest.mark.parametrize("shape", [(2, 2, 3, 4), (1, 2, 3, 2, 4)])
def test_upsampling_repeats_each_voxel_and_its_gradient_sums_them(shape):
    x = random(0, shape)
    np.testing.assert_array_equal(upsample(x), repeated(x))
    gradient = jax.grad(lambda x: upsample(x).sum())(x)
    np.testing.assert_array_equal(gradient, np.full(shape, 2 ** (len(shape) - 2)))
