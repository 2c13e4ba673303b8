"""Which exact rewrites a network is computed with, by platform.

All give the plain form's results but for rounding. Of equal maxima, "pairwise_max_pool" sends each its share of
the gradient, where the plain form sends all of it to the first.
"""

import jax

REWRITES = {
    "dots": "a convolution of window 1 is a matrix product",
    "tree_sum": "a sum over all voxels is one of sums of 32",
    "pairwise_max_pool": "pooling takes the maximum of pairs, axis by axis, so that its gradient needs no search",
    "low_mask": "an attention's last two convolutions and sigmoid come before its last upsampling",
    "split": "a convolution of a concatenation is the sum of two, so that the upsampled half is small until it ends",
    "subpixel": "a convolution of an upsampled array is one of the small array, for each place in a block of 2",
    "slices": "a 3D convolution is made of 2D ones over all slices",
    "winograd": "of these, two slices at once from four products instead of six",
    "im2col_kernel_grad": "the gradient of a 2D kernel, where arrays are small, is a matrix product of shifted copies",
    "matmul_transpose": "for the gradient of a 2D kernel, its input is turned by a matrix product",
    "pack_width": "a 2D convolution to few features takes neighbors along x as channels of one place",
    "shift_and_matmul": "a convolution to one channel, in 2D from one too, is a matrix product and shifts, one a tap",
}
BY_PLATFORM = {
    "cpu": tuple(REWRITES),
    "gpu": ("dots", "pairwise_max_pool", "low_mask", "split", "subpixel"),
    "tpu": ("dots", "pairwise_max_pool", "low_mask", "split", "subpixel"),
}
NEEDS = {"subpixel": "split", "winograd": "slices"}


def rewrites(lowering: str) -> frozenset[str]:
    """The rewrites that `lowering` names: "auto" by the present platform, "plain" none, else names with commas between.

    Raises ValueError for a name that is no rewrite, or one that works on another that is not named.
    """
    if lowering == "auto":
        return frozenset(BY_PLATFORM.get(jax.default_backend(), BY_PLATFORM["gpu"]))
    names = frozenset(lowering.split(",")) - {"plain", ""}
    for name in sorted(names):
        if name not in REWRITES:
            raise ValueError(
                f"network.lowering names {name!r}; choose auto, plain, or with commas between some of "
                f"{', '.join(REWRITES)}"
            )
        if NEEDS.get(name, name) not in names:
            raise ValueError(f"network.lowering names {name} without {NEEDS[name]}, which it works on; name both")
    return names
