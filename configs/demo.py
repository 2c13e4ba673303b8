"""The whole cascade on drawn abdomens, narrow and small: an end-to-end trial that needs no download.

python run.py --config=configs/demo.py
python run.py --config=configs/demo.py:folds     (five folds, stage 3 on out-of-fold livers, cross-validated)
"""

from configs import liver
from raunet_jax.errors import UserError


def get_config(argument: str = ""):
    if argument not in ("", "folds"):
        raise UserError(f"demo:{argument} is not a recipe; choose demo, or demo:folds for all five folds")
    config = liver.get_config()
    config.name = "demo"
    config.data.source = "phantom"
    config.data.cases = 32
    config.data.test_cases = 6
    config.data.phantom_size = (96, 96, 40)
    config.folds = (0,)
    config.liver_source = "reference"  # one fold has an out-of-fold liver of a fifth of the cases only
    for stage in config.stages.values():
        stage.network.width = 8
        stage.network.momentum = 0.8  # so few steps that statistics with the paper's 0.99 would lag behind
        stage.window.batch_size = 4
        stage.learning_rate = 2e-3

    coarse = config.stages.coarse
    coarse.patch_size = (64, 64, 1)
    coarse.data.patches_per_case = 16.0
    coarse.batch_size = 16
    coarse.epochs = 5
    coarse.window.batch_size = 16

    voi = config.stages.voi
    voi.patch_size = (64, 64, 32)
    voi.data.patches_per_case = 3.0
    voi.batch_size = 4
    voi.epochs = 5
    voi.window.step = (64, 64, 20)

    tumor = config.stages.tumor
    tumor.patch_size = (64, 64, 32)
    tumor.data.patches_per_case = 6.0
    tumor.batch_size = 4
    tumor.epochs = 7

    if argument == "folds":
        config.name = "demo_folds"
        config.liver_source = "predicted"
        config.folds = (0, 1, 2, 3, 4)
        config.data.cases, config.data.test_cases = 20, 0
        voi.epochs, tumor.epochs = 4, 4
    return config
