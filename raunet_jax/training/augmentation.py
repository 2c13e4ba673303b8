"""Random changes of training patches, drawn on the device: none in the paper, and none unless a recipe asks.

What a patch is changed by follows from the recipe's seed, the step and the patch's place in the global batch, so the
number of devices does not matter, and a resumed training repeats the draws without keeping anything for them.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from ml_collections import ConfigDict

from raunet_jax.errors import UserError

AXES = {"x": -2, "y": -3, "z": -4}  # of a patch ([z,] y, x, channel)
PLANE = (AXES["y"], AXES["x"])


class Augmentation(NamedTuple):
    """`config.augment`, whose fields configs/common.py explains, and the recipe's seed; hashable."""

    flip: tuple[str, ...] = ()
    quarter_turns: bool = False
    rotation: float = 0.0
    scale: float = 0.0
    intensity: float = 0.0
    seed: int = 0


OFF = Augmentation()


def from_recipe(config: ConfigDict) -> Augmentation:
    """By the fields `augment`, `patch_size` and `seed`; OFF where it changes nothing.

    Raises:
        ValueError: a value that does not fit.
    """
    settings = Augmentation(**config.augment.to_dict())
    x, y, z = config.patch_size
    axes = ("x", "y", "z") if z > 1 else ("x", "y")
    for axis in settings.flip:
        if axis not in axes:
            raise UserError(f"augment.flip has {axis!r}; patches of patch_size {x, y, z} have axes {', '.join(axes)}")
    if settings.quarter_turns and x != y:
        raise UserError(
            f"augment.quarter_turns needs patches that are square in plane, but patch_size is {x, y, z}; "
            "make x and y equal, or set augment.quarter_turns to False"
        )
    for name, highest in (("rotation", 180), ("scale", 0.5), ("intensity", 1)):
        value = getattr(settings, name)
        if not 0 <= value <= highest:
            raise UserError(f"augment.{name} is {value}; it must lie between 0 and {highest}")
    return settings if settings == OFF else settings._replace(seed=config.seed)


def sample_keys(seed: int, step, first, count: int) -> jax.Array:
    """A key for each of the `count` samples from place `first` of the global batch that training step `step` takes."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda place: jax.random.fold_in(key, place))(first + jnp.arange(count))


def augment(image, mask, keys, settings: Augmentation):
    """Image (b, [z,] y, x, c) in [0, 1] and mask (b, [z,] y, x, 1), both float32, each sample changed by its own key.

    The mask moves with the image and keeps its values, 0 and 1.
    """
    return jax.vmap(functools.partial(_augment_sample, settings=settings))(image, mask, keys)


def _augment_sample(image, mask, key, settings: Augmentation):
    flips, turns, warp, intensity = jax.random.split(key, 4)
    if settings.flip:
        for axis, drawn in zip(settings.flip, jax.random.bernoulli(flips, shape=(len(settings.flip),)), strict=True):
            image, mask = (jnp.where(drawn, jnp.flip(a, AXES[axis]), a) for a in (image, mask))
    if settings.quarter_turns:
        # a turn by 90 degrees or none, then one by 180 or none: all four are equally likely
        for count, drawn in zip((1, 2), jax.random.bernoulli(turns, shape=(2,)), strict=True):
            image, mask = (jnp.where(drawn, jnp.rot90(a, count, PLANE), a) for a in (image, mask))
    if settings.rotation or settings.scale:
        angle, zoom = jax.random.uniform(warp, (2,), minval=-1, maxval=1)
        angle, zoom = math.radians(settings.rotation) * angle, 1 + settings.scale * zoom
        points = _warped_plane(image.shape[-3:-1], angle, zoom)
        image, mask = _sample_planes(image, points, order=1), _sample_planes(mask, points, order=0)
    if settings.intensity:
        shape = (2, *(1,) * (image.ndim - 1), image.shape[-1])  # modalities have scales of their own
        contrast, brightness = settings.intensity * jax.random.uniform(intensity, shape, minval=-1, maxval=1)
        image = jnp.clip((1 + contrast) * (image - 0.5) + 0.5 + brightness, 0, 1)
    return image, mask


def _warped_plane(shape: tuple[int, int], angle, zoom) -> list[jax.Array]:
    """Where in the plane (y, x) each voxel of the plane turned by `angle`, and larger by `zoom`, comes from."""
    middle_y, middle_x = ((size - 1) / 2 for size in shape)
    from_middle = (jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2 for size in shape)
    y, x = jnp.meshgrid(*from_middle, indexing="ij")
    cos, sin = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom
    return [cos * y - sin * x + middle_y, sin * y + cos * x + middle_x]


def _sample_planes(array, points, order: int):
    """`array` ([z,] y, x, channel) at `points` of each plane, and 0 outside.

    0 is both the lowest intensity, which patches at the border of a scan are padded with, and background. The nearest
    voxel instead would draw an organ out beyond the patch's border, where the mask must then not say background.
    """
    take = functools.partial(map_coordinates, coordinates=points, order=order, mode="constant")
    planes = jnp.vectorize(take, signature="(y,x)->(y,x)")(jnp.moveaxis(array, -1, 0))
    return jnp.moveaxis(planes, 0, -1)
