"""The liver cascade of the paper: localize, segment the liver, segment its tumors, each stage trained in turn.

    python run.py --config=configs/liver.py --config.data.root=/disk/lits
    python run.py --config=configs/liver.py:strong ...   (patches augmented, windows mirrored in every stage)

Fields of one stage are `config.stages.STAGE.FIELD`; seed, data and precision are shared by all three.
"""

from ml_collections import ConfigDict

from configs import common, liver_coarse, liver_tumor, liver_voi

SHARED = "source root prepared repair on_leak cases test_cases folds validation_share workers phantom_size".split()


def get_config(argument: str = ""):
    config = ConfigDict()
    config.name = "liver_strong" if argument else "liver"  # another argument is refused by the stages
    shared = common.get_config()
    for field in ("seed", "data", "precision"):
        config[field] = shared[field]
    with config.data.unlocked():
        for field in ("modalities", "patches_per_case", "foreground_fraction", "foreground"):
            del config.data[field]  # these belong to a stage
    config.folds_at_once = shared.folds_at_once
    config.folds = (0, 1, 2, 3, 4)  # of stages voi and tumor; stage coarse is a single model
    config.liver_source = (
        "predicted"  # predicted: stage 3 trains on the boxes it will meet in use; or reference, as the paper
    )

    config.stages = ConfigDict()
    for name, stage_recipe in (("coarse", liver_coarse), ("voi", liver_voi), ("tumor", liver_tumor)):
        stage = stage_recipe.get_config(argument)
        # References: what is set on the cascade, also on the command line, is read by every stage.
        stage.seed = config.get_ref("seed")
        stage.precision = config.get_ref("precision")
        for field in SHARED:
            stage.data[field] = config.data.get_ref(field)
        if name != "coarse":
            stage.folds = config.get_ref("folds")
            stage.folds_at_once = config.get_ref("folds_at_once")
        if name == "tumor":
            stage.liver_source = config.get_ref("liver_source")
        config.stages[name] = stage
    return config.lock()
