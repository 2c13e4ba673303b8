"""Stage 1, liver localization: RA-UNet-I on 256x256 slices of the down-sampled scan (paper section III-E).

python run.py --config=configs/liver_coarse.py --config.data.root=/disk/lits
python run.py --config=configs/liver_coarse.py:strong ...   (patches augmented, windows mirrored; not the paper's)
"""

from configs import common


def get_config(argument: str = ""):
    config = common.get_config()
    config.name = "liver_coarse"
    config.stage = "coarse"
    config.patch_size = (256, 256, 1)
    config.network.width = 16
    config.batch_size = 16
    config.folds = (0,)
    return common.strong(config, argument)
