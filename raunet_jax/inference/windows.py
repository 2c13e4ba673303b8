"""Overlapping windows over a volume: cut and merged on the host while the device computes the next ones.

The device sees batches of windows alone, all of one shape. So one compiled network serves volumes of any shape, device
memory does not grow with the volume, nothing is indexed beyond what an int32 holds, and the sums are those of a plain
loop, in the windows' order, on every device. Cutting and adding a window of 32x128x128 takes a core a third of a
millisecond; the network takes from several milliseconds (GPU) to a second (CPU) for it.
"""

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from raunet_jax.errors import UserError
from raunet_jax.imaging.intensity import normalize
from raunet_jax.networks.packing import unpack_all
from raunet_jax.networks.raunet import RAUNet

AHEAD = 2  # batches that the device is given beyond the one that is waited for
# Windows a call where a recipe leaves that open. A CPU is busy with one; what a GPU does for one in 3D is bound by the
# starts of its kernels, so that it is given as many as have these voxels, and at least 4: 4 windows of 128x128x32 or
# 224x224x32, 32 of 256x256.
ON_CPU = {"2D": 8, "3D": 1}
ACCELERATOR_VOXELS, ACCELERATOR_RANGE = 4 * 128 * 128 * 32, (4, 64)
AXES = {"x": 3, "y": 2, "z": 1}  # of windows (b, z, y, x, c) and of their probabilities (b, z, y, x)
Forward = Callable[[Array], Float[Array, "b z y x"]]


def window_origins(shape: Sequence[int], patch: Sequence[int], step: Sequence[int]) -> np.ndarray:
    """First voxels `(n, 3)` of the windows that cover a volume of `shape`; all arguments (z, y, x).

    Neighbors are `step` apart, except that the last window of each axis ends with the volume. Raises ValueError for a
    volume smaller than a patch or a step that leaves gaps.
    """
    return np.array(list(itertools.product(*_starts(shape, patch, step))), np.int32)


def _starts(shape: Sequence[int], patch: Sequence[int], step: Sequence[int]) -> list[list[int]]:
    """The windows' first voxels along each axis; their product are the windows."""
    axes = []
    for size, length, stride in zip(shape, patch, step, strict=True):
        if size < length:
            raise ValueError(f"a volume of {tuple(shape)} is smaller than the window {tuple(patch)}; pad it first")
        if not 0 < stride <= length:
            raise UserError(
                f"window step {stride} must be from 1 to the window's {length} voxels, or voxels are missed"
            )
        axes.append([*range(0, size - length, stride), size - length])
    return axes


def empty_windows(volume: np.ndarray, floor: np.ndarray, patch: Sequence[int], step: Sequence[int]) -> np.ndarray:
    """Which windows, bool `(n,)` in the order of `window_origins`, have no voxel above `floor` (c,) in any channel.

    `volume` (z, y, x, c). The highest voxel of a window is that of its slices' highest rows, so one axis after the
    other is reduced, and the volume itself is read about `patch / step` times along one axis only.
    """
    highest = volume
    for axis, (starts, length) in enumerate(zip(_starts(volume.shape[:3], patch, step), patch, strict=True)):
        before = (slice(None),) * axis
        parts = [highest[*before, start : start + length].max(axis=axis) for start in starts]
        highest = np.stack(parts, axis=axis)
    return (highest <= floor).all(axis=-1).ravel()


def windows_a_call(asked: int, patch: Sequence[int]) -> int:
    """`config.window.batch_size` as `asked` for, or where that is 0 what suits the platform and `patch` (z, y, x)."""
    if asked:
        return asked
    if jax.default_backend() == "cpu":
        return ON_CPU["2D" if patch[0] == 1 else "3D"]
    return int(np.clip(ACCELERATOR_VOXELS // math.prod(patch), *ACCELERATOR_RANGE))


def check_window(window, patch: Sequence[int]) -> None:
    """Raise ValueError for a recipe's `config.window` that windows of `patch` (z, y, x) cannot be merged by."""
    _profiles(window.weights, patch)
    _flips(window.mirror, patch)


def _profiles(weights: str, patch: Sequence[int]) -> list[np.ndarray]:
    """A window's weight is the product of its place's on these three: float32 (length,) along z, y, x.

    "gaussian": standard deviation an eighth of the patch, centered, as in nnU-Net (Isensee et al., Nature Methods
    2021): the network is least sure near a window's border, where it sees one side of a voxel only.
    """
    if weights == "uniform":
        return [np.ones(length, np.float32) for length in patch]
    if weights != "gaussian":
        raise UserError(f"config.window.weights is {weights!r}; choose uniform or gaussian")
    places = [np.arange(length) - (length - 1) / 2 for length in patch]
    return [np.exp(-0.5 * (8 * place / len(place)) ** 2).astype(np.float32) for place in places]


def _flips(mirror: Sequence[str], patch: Sequence[int]) -> list[tuple[int, ...]]:
    """The axes to flip for each of the mirrored copies of a batch, the first of them the batch itself."""
    there = [axis for axis in AXES if axis != "z" or patch[0] > 1]
    for axis in mirror:
        if axis not in there:
            raise UserError(
                f"config.window.mirror has {axis!r}; windows of (z, y, x) {tuple(patch)} have axes {', '.join(there)}"
            )
    axes = sorted({AXES[axis] for axis in mirror})
    return [chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)]


@functools.lru_cache
def make_forward(network: RAUNet) -> Callable:
    """`forward(variables, image (b, z, y, x, c), low (c,), high (c,)) -> probabilities (b, z, y, x)`, compiled.

    Windows one slice thick go through a 2D network. Packed variables are one argument in place of some 640.
    """

    @jax.jit
    @network.settings.traced
    def forward(variables, image, low, high):
        variables = unpack_all(variables)
        image = normalize(image, low, high)
        flat = image.shape[1] == 1
        logits = network.apply(variables, image[:, 0] if flat else image)
        probabilities = jax.nn.sigmoid(logits[..., 0])
        return probabilities[:, None] if flat else probabilities

    return forward


def predict_windows(forward: Forward, *arguments, **settings) -> np.ndarray:
    """The one map, float32 (z, y, x), that `predict_maps` makes of a single forward."""
    return next(predict_maps([forward], *arguments, **settings))


def predict_maps(
    forwards: Sequence[Forward],
    volume: np.ndarray,
    patch: Sequence[int],
    step: Sequence[int],
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
    weights: str = "uniform",
    mirror: Sequence[str] = (),
    empty: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Of each of `forwards` the weighted mean of the windows' probabilities at each voxel: float32 (z, y, x).

    While one map is finished and used, the device computes the first windows of the next.

    Args:
        forwards: each windows (b, z, y, x, c) -> probabilities (b, z, y, x).
        volume: (z, y, x, c), at least a patch in size.
        patch, step: voxels (z, y, x).
        batch_size: windows a call; the last call is filled up, so that it is compiled once.
        advance: told the number of windows finished, `batch_size` at a time.
        weights: of a window's voxels, "uniform" or "gaussian".
        mirror: axes of "x", "y", "z"; each window's probabilities are the mean over all its mirrored copies.
        empty: bool (n,), see `empty_windows`: windows that are all the same to a forward, which is given one of them.

    Raises:
        ValueError: as `window_origins` does, and for weights or axes there are none of.
        FloatingPointError: a probability is not a number.
    """
    starts = _starts(volume.shape[:3], patch, step)
    origins = window_origins(volume.shape[:3], patch, step)
    profiles = _profiles(weights, patch)
    weight = profiles[0][:, None, None] * profiles[1][:, None] * profiles[2]
    empty = np.zeros(len(origins), bool) if empty is None else empty
    seen = np.concatenate([np.flatnonzero(empty)[:1], np.flatnonzero(~empty)])
    flips = _flips(mirror, patch)
    answers = _answers([_mirrored(one, flips) for one in forwards], volume, origins[seen], patch, batch_size)

    def merged():
        of_empty = next(answers).copy() if empty.any() else None
        total, weighted = np.zeros(volume.shape[:3], np.float32), np.empty(patch, np.float32)
        for count, (origin, is_empty) in enumerate(zip(origins, empty, strict=True), start=1):
            answer = of_empty if is_empty else next(answers)
            answer = answer if weights == "uniform" else np.multiply(answer, weight, out=weighted)
            total[_where(origin, patch)] += answer
            if count % batch_size == 0 or count == len(origins):
                advance((count - 1) % batch_size + 1)
        for slice_, along_z in zip(total, sums[0], strict=True):
            slice_ /= along_z * plane
            if math.isnan(slice_.sum()):  # while the slice is in the cache
                raise FloatingPointError("a probability is not a number")
        return total

    # The windows are a product of three axes, and so are their weights: the weights' sum at a voxel needs no volume.
    sums = [_sums(*axis) for axis in zip(volume.shape[:3], starts, profiles, strict=True)]
    plane = np.multiply.outer(sums[1], sums[2])
    for _ in forwards:
        yield merged()  # held by nobody here while the next is made


def _where(origin: np.ndarray, patch: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(first, first + length) for first, length in zip(origin, patch, strict=True))


def _sums(size: int, starts: Sequence[int], profile: np.ndarray) -> np.ndarray:
    """Of the windows' weights at each of an axis's `size` voxels, float32."""
    sums = np.zeros(size, np.float32)
    for start in starts:
        sums[start : start + len(profile)] += profile
    return sums


def _mirrored(forward: Forward, flips: Sequence[tuple[int, ...]]) -> Forward:
    """The mean over the mirrored copies of a batch; the network within is the same compiled one for each of them."""
    if len(flips) == 1:
        return forward

    def mean(windows):
        total = forward(windows)
        for axes in flips[1:]:
            total = total + jnp.flip(forward(jnp.flip(windows, axes)), axes)
        return total / len(flips)

    return mean


def _answers(
    forwards: Sequence[Forward], volume: np.ndarray, origins: np.ndarray, patch: Sequence[int], batch_size: int
) -> Iterator[np.ndarray]:
    """The first forward's answer for each window in turn, (z, y, x), then the next one's.

    JAX returns before the device has computed, so that meanwhile the next batches are cut and copied and the one before
    is merged; waiting for the oldest of AHEAD + 1 bounds what lies on the device. Each answer is on its way to the host
    as soon as it is there, and not only when it is waited for.
    """
    under_way = collections.deque()

    def oldest():
        count, answer = under_way.popleft()
        return np.asarray(answer)[:count]  # waits for the device

    for forward, first in itertools.product(forwards, range(0, len(origins), batch_size)):
        some = origins[first : first + batch_size]
        windows = np.empty((batch_size, *patch, volume.shape[-1]), volume.dtype)
        for index, window in enumerate(windows):
            window[...] = volume[_where(some[min(index, len(some) - 1)], patch)]
        answer = forward(jnp.asarray(windows))
        if hasattr(answer, "copy_to_host_async"):
            answer.copy_to_host_async()
        under_way.append((len(some), answer))
        if len(under_way) > AHEAD:
            yield from oldest()
    while under_way:
        yield from oldest()
