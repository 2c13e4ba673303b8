"""A trained network's variables with whatever is linear at inference folded into its convolutions."""

from collections.abc import Mapping

import jax
import numpy as np

from raunet_jax.networks.layers import EPSILON
from raunet_jax.networks.packing import Packed, pack


def fold(variables: Mapping) -> dict:
    """`params` and `batch_stats` for a network whose `Settings.folded` is True, as float32 numpy arrays.

    At inference a batch norm is an affine map of each channel. Where it directly follows a convolution (two of a
    residual block's three, and those after Conv1 and Conv2), it is folded into the kernel and the bias. An attention
    mask's two last convolutions, of window 1 with nothing between, become one. Computed in float64.
    """
    trained = {name: variables[name] for name in ("params", "batch_stats")}
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trained)
    params, statistics = _folded(exact["params"], exact["batch_stats"])
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), {"params": params, "batch_stats": statistics})


def as_argument(variables: dict) -> Packed | dict:
    """As what a compiled network is called with: one array, so that a call costs the host no 640 arguments, 3 ms.

    On a CPU as they are: 3 ms are little of a window's time there, and to unpack them doubles what compiling takes.
    """
    return variables if jax.default_backend() == "cpu" else pack(variables)


def _folded(params: Mapping, statistics: Mapping) -> tuple[dict, dict]:
    params, statistics = {**params}, {**statistics}
    if "middle" in params:
        for before, after in (("reduce", "middle"), ("middle", "expand")):
            conv = _conv_and_norm(params[before]["conv"], params[after]["norm"], statistics.pop(after)["norm"])
            params[before] = {**params[before], "conv": conv}
            params[after] = {"conv": params[after]["conv"]}
        return params, statistics
    for name in [name for name in params if f"{name}_norm" in params]:
        params[name] = _conv_and_norm(params[name], params.pop(f"{name}_norm"), statistics.pop(f"{name}_norm"))
    if "mask_conv_1" in params:
        first, second = params.pop("mask_conv_1"), params.pop("mask_conv_2")
        bias = first["bias"] @ second["kernel"] + second["bias"]
        params["mask_conv"] = {"kernel": first["kernel"] @ second["kernel"], "bias": bias.ravel()}
    for name, inner in statistics.items():
        if name in params:
            params[name], statistics[name] = _folded(params[name], inner)
    return params, statistics


def _conv_and_norm(conv: Mapping, norm: Mapping, running: Mapping) -> dict:
    """kernel and bias of `norm(conv(x))` with the running statistics."""
    factor = norm["scale"] / np.sqrt(running["var"] + EPSILON)
    return {"kernel": conv["kernel"] * factor, "bias": (conv["bias"] - running["mean"]) * factor + norm["bias"]}
