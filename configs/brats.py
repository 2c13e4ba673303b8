"""Whole brain tumor from four MR modalities: the wide RA-UNet on 64^3 patches (section IV-F).

python run.py --config=configs/brats.py --config.data.root=/disk/MICCAI_BraTS_2018_Data_Training
python run.py --config=configs/brats.py:strong ...   (patches augmented, windows mirrored; not the paper's)
"""

from configs import common


def get_config(argument: str = ""):
    config = common.get_config()
    config.name = "brats"
    config.stage = "brain"
    config.data.source = "brats"
    config.data.root = "data/brats"
    config.data.modalities = ("t1", "t1ce", "t2", "flair")
    config.patch_size = (64, 64, 64)
    config.network.width = 64
    config.network.stem_width = 32
    config.network.bottom_width = 512
    return common.strong(config, argument)
