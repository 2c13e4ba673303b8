"""The liver cascade of the paper: localize, segment the liver, segment its tumors, each stage trained in turn.

    python run.py --config=configs/liver.py --config.data.root=/disk/lits
    python run.py --config=configs/liver.py:strong ...   (patches augmented, windows mirrored in every stage)

Fields of one stage are `config.stages.STAGE.FIELD`; seed, data, precision and deterministic are shared by all.
"""

from ml_collections import ConfigDict

from configs import common, liver_coarse, liver_tumor, liver_voi

OF_A_STAGE = ("modalities", "patches_per_case", "foreground_fraction", "foreground")  # every other data field is shared


def get_config(argument: str = "") -> ConfigDict:
    config = ConfigDict()
    config.name = "liver_strong" if argument else "liver"  # another argument is refused by the stages
    shared = common.get_config()
    for field in ("seed", "data", "precision", "deterministic"):
        config[field] = shared[field]
    with config.data.unlocked():
        for field in OF_A_STAGE:
            del config.data[field]
    config.folds_at_once = shared.folds_at_once
    config.folds = (0, 1, 2, 3, 4)  # of stages voi and tumor; stage coarse is a single model
    # predicted: stage 3 trains on the boxes that it will meet in use; reference: as in the paper
    config.liver_source = "predicted"

    config.stages = ConfigDict()
    for name, stage_recipe in (("coarse", liver_coarse), ("voi", liver_voi), ("tumor", liver_tumor)):
        stage = stage_recipe.get_config(argument)
        # References: what is set on the cascade, also on the command line, is read by every stage.
        stage.seed = config.get_ref("seed")
        stage.precision = config.get_ref("precision")
        stage.deterministic = config.get_ref("deterministic")
        for field in config.data:
            stage.data[field] = config.data.get_ref(field)
        if name != "coarse":
            stage.folds = config.get_ref("folds")
            stage.folds_at_once = config.get_ref("folds_at_once")
        if name == "tumor":
            stage.liver_source = config.get_ref("liver_source")
        config.stages[name] = stage
    return config.lock()
