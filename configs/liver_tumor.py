"""Stage 3, tumor extraction: RA-UNet-II at the scan's own resolution inside the liver (section III-G).

python run.py --config=configs/liver_tumor.py --config.data.root=/disk/lits
python run.py --config=configs/liver_tumor.py:64x64x32 ...   (the patch-size study: also 32x32x32)
python run.py --config=configs/liver_tumor.py:64x64x32,strong ... (patches augmented, windows mirrored; not the paper's)
"""

from configs import common
from raunet_jax.errors import UserError

PATCH_SIZES = {"128x128x32": 2, "64x64x32": 8, "32x32x32": 32}  # patch size: batch size of about equal memory


def get_config(argument: str = "128x128x32"):
    parts = [part for part in argument.split(",") if part]
    sizes = [part for part in parts if part != "strong"] or ["128x128x32"]
    if len(sizes) > 1 or sizes[0] not in PATCH_SIZES:
        raise UserError(
            f"liver_tumor:{argument} is not a recipe; choose one of the paper's patch sizes {', '.join(PATCH_SIZES)}, "
            "or strong, or both with a comma between"
        )
    patch_size = sizes[0]
    config = common.get_config()
    config.name = "liver_tumor" if patch_size == "128x128x32" else f"liver_tumor_{patch_size}"
    config.stage = "tumor"
    config.patch_size = tuple(int(size) for size in patch_size.split("x"))
    config.batch_size = PATCH_SIZES[patch_size]
    return common.strong(config, "strong" if "strong" in parts else "")
