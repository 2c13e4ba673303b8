"""Stage 2, liver segmentation: RA-UNet-II on the liver's box, 224x224 in plane, 32 slices at a time (section III-F).

python run.py --config=configs/liver_voi.py --config.data.root=/disk/lits
python run.py --config=configs/liver_voi.py:strong ...   (patches augmented, windows mirrored; not the paper's)
"""

from configs import common


def get_config(argument: str = ""):
    config = common.get_config()
    config.name = "liver_voi"
    config.stage = "voi"
    config.patch_size = (224, 224, 32)
    config.window.step = (224, 224, 20)
    config.threshold = 0.6
    return common.strong(config, argument)
