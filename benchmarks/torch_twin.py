"""RA-UNet in PyTorch, 2D and 3D, written from the paper as a PyTorch user would: what ours is measured beside.

Submodules bear the names of ours, so that `load` can copy our variables into them and outputs can be compared.
Arrays are (batch, channel, [z,] y, x).
"""

import math
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

EPSILON = 1e-3  # of batch norm
MOMENTUM = 0.01  # of batch norm, counted as PyTorch does: the new value's share


def conv(dims: int, inputs: int, features: int, window: int) -> nn.Module:
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return kind(inputs, features, window, padding=window // 2)


def norm(dims: int, features: int) -> nn.Module:
    kind = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    return kind(features, eps=EPSILON, momentum=MOMENTUM)


def pool(dims: int) -> nn.Module:
    return {2: nn.MaxPool2d, 3: nn.MaxPool3d}[dims](2)


def norm_relu_conv(dims: int, inputs: int, features: int, window: int) -> nn.Sequential:
    layers = {"norm": norm(dims, inputs), "relu": nn.ReLU(inplace=True), "conv": conv(dims, inputs, features, window)}
    return nn.Sequential(OrderedDict(layers))


class ResidualBlock(nn.Module):
    """Equation 1: windows 1, 3, 1 and widths c/4, c/4, c, plus a convolved identity path."""

    def __init__(self, dims: int, inputs: int, features: int):
        super().__init__()
        narrow = features // 4
        self.reduce = norm_relu_conv(dims, inputs, narrow, 1)
        self.middle = norm_relu_conv(dims, narrow, narrow, 3)
        self.expand = norm_relu_conv(dims, narrow, features, 1)
        self.identity = conv(dims, inputs, features, 1)

    def forward(self, x):
        return self.expand(self.middle(self.reduce(x))) + self.identity(x)


class AttentionModule(nn.Module):
    """Equation 2: `(1 + mask) * trunk`, the mask a small U-Net that goes `depth` levels below its first pooling."""

    def __init__(self, dims: int, features: int, depth: int):
        super().__init__()
        self.depth = depth
        self.pool, self.upsample = pool(dims), nn.Upsample(scale_factor=2, mode="nearest")
        levels = [f"mask_{way}_{level}" for way in ("skip", "down", "up") for level in range(depth)]
        for name in ("before", "trunk_1", "trunk_2", "mask_in", *levels, "mask_out", "after"):
            self.add_module(name, ResidualBlock(dims, features, features))
        self.mask_conv_1 = conv(dims, features, features, 1)
        self.mask_conv_2 = conv(dims, features, features, 1)

    def forward(self, x):
        x = self.before(x)
        trunk = self.trunk_2(self.trunk_1(x))
        mask = self.mask_in(self.pool(x))
        skips = []
        for level in range(self.depth):
            skips.append(self.get_submodule(f"mask_skip_{level}")(mask))
            mask = self.get_submodule(f"mask_down_{level}")(self.pool(mask))
        for level in reversed(range(self.depth)):
            mask = self.upsample(self.get_submodule(f"mask_up_{level}")(mask)) + skips[level]
        mask = self.upsample(self.mask_out(mask))
        mask = torch.sigmoid(self.mask_conv_2(self.mask_conv_1(mask)))
        return self.after((1 + mask) * trunk)


class RAUNet(nn.Module):
    """Tables II and III: image (b, channels, [z,] y, x) -> logits (b, 1, [z,] y, x)."""

    def __init__(self, dims: int, channels: int, width: int, stem_width: int, bottom_width: int):
        super().__init__()
        widths = [width * factor for factor in (1, 2, 4, 8)]
        self.pool, self.upsample = pool(dims), nn.Upsample(scale_factor=2, mode="nearest")
        self.relu = nn.ReLU(inplace=True)
        self.Conv1, self.Conv1_norm = conv(dims, channels, stem_width, 3), norm(dims, stem_width)
        above = stem_width
        for number, features in enumerate((*widths, bottom_width, bottom_width), start=1):
            self.add_module(f"Res{number}", ResidualBlock(dims, above, features))
            above = features
        for depth, features in enumerate(reversed(widths)):
            self.add_module(f"Att{depth + 1}", AttentionModule(dims, features, depth))
            self.add_module(f"Res{7 + depth}", ResidualBlock(dims, above + features, features))
            above = features
        self.Conv2, self.Conv2_norm = conv(dims, above + stem_width, stem_width, 3), norm(dims, stem_width)
        self.Conv3 = conv(dims, stem_width, 1, 3)

    def forward(self, image):
        stem = self.relu(self.Conv1_norm(self.Conv1(image)))
        encoder, x = [], stem
        for number in range(1, 5):
            x = self.get_submodule(f"Res{number}")(self.pool(x))
            encoder.append(x)
        x = self.Res6(self.Res5(self.pool(x)))
        for depth, skip in enumerate(reversed(encoder)):
            attention = self.get_submodule(f"Att{depth + 1}")(skip)
            x = self.get_submodule(f"Res{7 + depth}")(torch.cat([self.upsample(x), attention], 1))
        x = self.relu(self.Conv2_norm(self.Conv2(torch.cat([self.upsample(x), stem], 1))))
        return self.Conv3(x)


def dice_loss(logits, mask):
    """Equation 3 over all voxels of the batch."""
    probabilities = torch.sigmoid(logits)
    overlap = (probabilities * mask).sum()
    return 1 - 2 * overlap / (probabilities.square().sum() + mask.square().sum())


def load(twin: nn.Module, variables: Mapping) -> None:
    """Copy flax `params` and `batch_stats` into the twin, or those of one block into its submodule.

    Raises RuntimeError for a variable that only one of them has, or of which they have different shapes.
    """
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    state = {name: value for name, value in twin.state_dict().items() if name.endswith("num_batches_tracked")}

    def copy(tree, path=()):
        for name, value in tree.items():
            if isinstance(value, Mapping):
                copy(value, (*path, name))
                continue
            value = np.asarray(value, np.float32)
            if name == "kernel":  # ([z,] y, x, in, out) -> (out, in, [z,] y, x)
                value = np.moveaxis(value, (-1, -2), (0, 1))
            state[".".join((*path, names[name]))] = torch.from_numpy(np.ascontiguousarray(value))

    for part in ("params", "batch_stats"):
        copy(variables[part])
    twin.load_state_dict(state)


def parameter_count(twin: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in twin.parameters())
