"""The networks that are measured, and the convolutions in them as the paper writes them: what GFLOP/s count."""

import math
from typing import NamedTuple


class Network(NamedTuple):
    """`widths` are RAUNet's (width, stem_width, bottom_width), `shape` is that of a batch (b, [z,] y, x, channel)."""

    widths: tuple[int, int, int]
    shape: tuple[int, ...]


NETWORKS = {
    "I": Network((16, 16, 256), (4, 256, 256, 1)),
    "II-128": Network((32, 32, 512), (1, 32, 128, 128, 1)),
    "II-224": Network((32, 32, 512), (1, 32, 224, 224, 1)),
    "BraTS": Network((64, 32, 512), (1, 64, 64, 64, 4)),
}
QUICK = {
    "I": Network((8, 8, 64), (2, 64, 64, 1)),
    "II-128": Network((8, 8, 64), (2, 32, 32, 32, 1)),
    "II-224": Network((8, 8, 64), (1, 32, 64, 64, 1)),
    "BraTS": Network((16, 8, 64), (2, 32, 32, 32, 4)),
}


class Convolution(NamedTuple):
    """`voxels` of the output, batch included; `taps` of the kernel; a product and a sum are two operations."""

    block: str
    voxels: int
    taps: int
    inputs: int
    features: int

    @property
    def gflop(self) -> float:
        return 2e-9 * self.voxels * self.taps * self.inputs * self.features

    @property
    def parameters(self) -> int:
        return (self.taps * self.inputs + 1) * self.features


def convolutions(network: Network) -> list[Convolution]:
    """All convolutions of a forward pass, none left out or moved to where it would be cheaper."""
    width, stem, bottom = network.widths
    batch, *space, channels = network.shape
    taps, found = 3 ** len(space), []

    def add(block, level, taps, inputs, features):
        found.append(Convolution(block, batch * math.prod(size >> level for size in space), taps, inputs, features))

    def res(block, level, inputs, features):
        narrow = features // 4
        add(block, level, 1, inputs, narrow)
        add(block, level, taps, narrow, narrow)
        add(block, level, 1, narrow, features)
        add(block, level, 1, inputs, features)

    def attention(block, level, depth, features):
        below = [*range(depth), *range(1, depth + 1), *range(1, depth + 1)]  # the skips, the ways down and up
        for extra in (0, 0, 0, 0, 1, 1, *(1 + lower for lower in below)):
            res(block, level + extra, features, features)
        for _ in range(2):
            add(block, level, 1, features, features)

    add("Conv1", 0, taps, channels, stem)
    widths = [width, 2 * width, 4 * width, 8 * width]
    for number, (inputs, features) in enumerate(zip([stem, *widths], [*widths, bottom], strict=True), start=1):
        res(f"Res{number}", number, inputs, features)
    res("Res6", 5, bottom, bottom)
    for depth, (inputs, features) in enumerate(zip([bottom, *widths[:0:-1]], widths[::-1], strict=True)):
        attention(f"Att{depth + 1}", 4 - depth, depth, features)
        res(f"Res{7 + depth}", 4 - depth, inputs + features, features)
    add("Conv2", 0, taps, width + stem, stem)
    add("Conv3", 0, taps, stem, 1)
    return found


def gflop(network: Network, part: str) -> float:
    """Of the convolutions of a pass; a train step counts as three forward passes."""
    return {"forward": 1, "train": 3}[part] * sum(convolution.gflop for convolution in convolutions(network))
