"""Anybody's own task: one RA-UNet-II on a folder of images/ and labels/ with a dataset.json (the Decathlon's format).

    python run.py --config=configs/custom.py --config.data.root=/disk/Task04_Hippocampus
    python run.py --config=configs/custom.py:strong ...   (patches augmented, windows mirrored)

All labels are found as one; --config.data.foreground='(2,)' picks some. What is open below is worked out from the scans
when training begins, and stands in the run's config.json.
"""

from configs import common


def get_config(argument: str = ""):
    config = common.get_config()
    config.name = "custom"
    config.stage = "custom"
    config.data.source = "custom"
    config.data.root = "data/custom"
    config.data.modalities = ()  # open: all channels that dataset.json names
    config.patch_size = (0, 0, 0)  # open: near the median scan, in mm as cubic as it gets, at most 128x128x32 voxels
    config.batch_size = 0  # open: about as many voxels as two patches of 128x128x32
    config.window_hu = (0.0, 0.0)  # open, CT only: 0.5 to 99.5 percentile of what is to be found
    config.window.batch_size = 4
    return common.strong(config, argument)
