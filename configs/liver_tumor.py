"""Stage 3, tumor extraction: RA-UNet-II at the scan's own resolution inside the liver (section III-G).

python run.py --config=configs/liver_tumor.py --config.data.root=/disk/lits
python run.py --config=configs/liver_tumor.py:64x64x32 ...   (the patch-size study: also 32x32x32)
"""

from configs import common

PATCH_SIZES = {"128x128x32": 2, "64x64x32": 8, "32x32x32": 32}  # patch size: batch size of about equal memory


def get_config(patch_size: str = "128x128x32"):
    if patch_size not in PATCH_SIZES:
        raise ValueError(f"liver_tumor:{patch_size} is not a patch size of the paper; choose {', '.join(PATCH_SIZES)}")
    config = common.get_config()
    config.name = "liver_tumor" if patch_size == "128x128x32" else f"liver_tumor_{patch_size}"
    config.stage = "tumor"
    config.patch_size = tuple(int(size) for size in patch_size.split("x"))
    config.batch_size = PATCH_SIZES[patch_size]
    return config
