"""The liver cascade of the paper: localise, segment the liver, segment its tumors, each stage trained in turn.

    python run.py --config=configs/liver.py --config.data.root=/disk/lits

Fields of one stage are `config.stages.STAGE.FIELD`; seed, data and precision are shared by all three.
"""

from ml_collections import ConfigDict

from configs import common, liver_coarse, liver_tumor, liver_voi

SHARED = "source root prepared repair on_leak cases test_cases folds validation_share workers phantom_size".split()


def get_config():
    config = ConfigDict()
    config.name = "liver"
    shared = common.get_config()
    for field in ("seed", "data", "precision"):
        config[field] = shared[field]
    with config.data.unlocked():
        for field in ("modalities", "patches_per_case", "tumor_share", "foreground"):
            del config.data[field]  # these belong to a stage
    config.folds = (0, 1, 2, 3, 4)  # of stages voi and tumor; stage coarse is a single model

    config.stages = ConfigDict()
    stages = {"coarse": liver_coarse.get_config(), "voi": liver_voi.get_config(), "tumor": liver_tumor.get_config()}
    for name, stage in stages.items():
        # References: what is set on the cascade, also on the command line, is read by every stage.
        stage.seed = config.get_ref("seed")
        stage.precision = config.get_ref("precision")
        for field in SHARED:
            stage.data[field] = config.data.get_ref(field)
        if name != "coarse":
            stage.folds = config.get_ref("folds")
        config.stages[name] = stage
    return config.lock()
