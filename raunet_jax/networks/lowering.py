"""Which exact rewrites a network is computed with, by platform.

All give the plain form's results up to rounding. Of equal maxima, "pairwise_max_pool" sends each its share of the
gradient, where the plain form sends all of it to the first.
"""

import jax

from raunet_jax.errors import UserError

REWRITES = {
    "dots": "a convolution of window 1 as a matrix product",
    "narrow_left": "of a matrix product over all voxels the narrower array as the left operand",
    "tree_sum": "a sum over all voxels in two levels, blocks of 32 first",
    "joint_sum": "a batch norm's two sums over all voxels by one reduction",
    "pairwise_max_pool": "max pooling as the maximum of pairs, one axis at a time; its gradient needs no search",
    "low_mask": "an attention mask's last convolutions and sigmoid before its last upsampling, at low resolution",
    "split": "a convolution of upsample-and-concatenate as the sum of one of each half; the upsampled half stays small",
    "subpixel": "a convolution of an upsampled array as a sub-pixel convolution of the small array",
    "slices": "a 3D convolution as one 2D convolution of all slices, its taps along z as input channels",
    "winograd": "of these, two slices at once by Winograd's F(2, 3) along z: four products instead of six",
    "flat_kernel_grad": "a 3D convolution's kernel gradient at three slices or fewer by one matrix product of copies",
    "im2col_kernel_grad": "a small 2D convolution's kernel gradient by im2col: shifted copies and one matrix product",
    "matmul_transpose": "for a 2D convolution's kernel gradient, the input transposed by a product with the identity",
    "pack_width": "a 2D convolution from one channel or to few with groups of neighbors along x packed into channels",
    "shift_and_matmul": "a convolution to one feature as a matrix product and shifts",
}
BY_PLATFORM = {
    "cpu": tuple(name for name in REWRITES if name not in ("joint_sum", "flat_kernel_grad")),
    "gpu": ("dots", "joint_sum", "flat_kernel_grad", "pairwise_max_pool", "low_mask", "split", "subpixel"),
    "tpu": ("dots", "pairwise_max_pool", "low_mask", "split", "subpixel"),
}
NEEDS = {"narrow_left": "dots", "subpixel": "split", "winograd": "slices"}


def rewrites(lowering: str) -> frozenset[str]:
    """The rewrites that `lowering` names.

    Args:
        lowering: "auto" for those of the present platform, "plain" for none, else names with commas between.

    Raises:
        ValueError: a name is no rewrite, or one that builds on another that is not named.
    """
    if lowering == "auto":
        return frozenset(BY_PLATFORM.get(jax.default_backend(), BY_PLATFORM["gpu"]))
    names = frozenset(lowering.split(",")) - {"plain", ""}
    for name in sorted(names):
        if name not in REWRITES:
            raise UserError(
                f"network.lowering names {name!r}; choose auto, plain, or with commas between some of "
                f"{', '.join(REWRITES)}"
            )
        if NEEDS.get(name, name) not in names:
            raise UserError(f"network.lowering names {name} without {NEEDS[name]}, which it builds on; name both")
    return names
