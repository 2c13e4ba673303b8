"""Every field a recipe has, with its unit and its allowed values; a recipe shows only what it changes.

Sizes are written in-plane first, (x, y, z), as the paper writes them; arrays in the code are (z, y, x, channel).
Any field is overridden on the command line by its name: ``--config.data.root=/disk/lits --config.epochs=10``.
"""

from ml_collections import ConfigDict

from raunet_jax.errors import UserError


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = ""  # the recipe's name; the run folder is runs/NAME unless --workdir says otherwise
    config.stage = ""  # coarse | voi | tumor | brain | custom: which view of a volume the network is given
    config.seed = 0  # of the case split, the patches kept, the initial weights and the shuffling

    config.data = ConfigDict()
    config.data.source = "lits"  # lits | decathlon | ircadb | brats | custom | phantom (drawn on the spot, no download)
    config.data.root = "data/lits"  # folder that holds the scans, at any depth (not read for phantoms)
    config.data.prepared = "prepared"  # folder for patch sets and drawn phantoms
    config.data.modalities = ("ct",)  # the input channels, in order: ("ct",) or ("t1", "t1ce", "t2", "flair")
    config.data.foreground = ()  # stages brain, custom: label values to be found, merged to one; () = all above 0
    config.data.repair = False  # True: read known faults as they were meant, and say so; files are never changed
    config.data.check = "refuse"  # scans whose intensities cannot be what they should: refuse | warn (and go on)
    config.data.on_leak = "exclude"  # test cases that a model trained on under another name: exclude | warn
    config.data.cases = 0  # how many cases: 0 = all that are there (of phantoms: 6)
    config.data.test_cases = 0  # of these, how many no fold trains on; evaluate scores them
    config.data.folds = 5  # folds by patient; a model of fold k is validated on fold k
    config.data.validation_share = 0.29  # stage coarse only, one model: share of the cases it is validated on
    config.data.patches_per_case = 0.0  # mean patches a case; 0 = the paper's rule (of phantoms, in 3D: 1)
    config.data.foreground_fraction = 0.5  # of centered patches: share around a foreground voxel, jittered
    config.data.workers = 0  # processes that cut patches; 0 = one a core
    config.data.phantom_size = (128, 128, 48)  # voxels of a drawn case; the slice count varies around z

    config.window_hu = (-100.0, 200.0)  # CT intensities outside are clipped (not read for MR)
    config.patch_size = (0, 0, 0)  # voxels the network sees, multiples of 32; (x, y, 1) = single slices, 2D network
    config.box_margin = 10  # voxels added to the liver's bounding box on every side

    config.network = ConfigDict()
    config.network.width = 32  # channels of Res1; Res2-4 have 2, 4, 8 times as many
    config.network.stem_width = 0  # channels of Conv1 and Conv2; 0 = width
    config.network.bottom_width = 0  # channels of Res5 and Res6; 0 = 16 times width
    config.network.momentum = 0.99  # of the running batch statistics; short trainings need less, such as 0.8
    config.network.lowering = "auto"  # exact rewrites: auto (by platform) | plain | names of networks/lowering.py
    config.network.remat = "none"  # what the gradient computes anew to save memory: none | blocks | all

    config.augment = ConfigDict()  # random changes of training patches, drawn on the device; the paper has none
    config.augment.flip = ()  # axes mirrored at random, of ("x", "y", "z")
    config.augment.quarter_turns = False  # turn by 0, 90, 180 or 270 degrees in plane (square patches)
    config.augment.rotation = 0.0  # degrees: turn in plane by up to this much either way, such as 15
    config.augment.scale = 0.0  # zoom in plane by up to this share either way, such as 0.1
    config.augment.intensity = 0.0  # brightness and contrast change by up to this share of the window, such as 0.1

    config.epochs = 50
    config.batch_size = 2  # patches a step, over all devices and processes together
    config.learning_rate = 1e-3  # Adam, beta = (0.9, 0.999), epsilon = 1e-8
    config.plateau_patience = 20  # epochs without a better training loss before learning rate x 0.1
    config.loss_per_sample = False  # False: Dice over the whole batch's voxels; True: a Dice a patch, averaged
    # float32 | highest | bfloat16; weights, statistics and loss are float32 in all three.
    # float32: an NVIDIA GPU rounds what it multiplies to 10 bits (TF32) and is several times as fast; a CPU does not.
    # highest: products of all 23 bits on a GPU too; on a CPU the same as float32. bfloat16: activations of 7 bits.
    config.precision = "float32"
    config.deterministic = False  # True: a GPU trains to the same bits in every run, more slowly; a CPU does so anyway
    config.folds = (0, 1, 2, 3, 4)  # which folds are trained, one after another; (0,) for one
    config.folds_at_once = 1  # how many are trained side by side, each on one GPU in a process of its own
    config.checkpoint_minutes = 10.0  # the longest stretch of training a kill can cost

    config.liver_source = "reference"  # stage tumor crops around: reference | predicted (stage 2's mask, out of fold)

    config.window = ConfigDict()
    config.window.step = (0, 0, 0)  # voxels between neighboring windows (x, y, z); 0 = half a patch
    config.window.batch_size = 0  # windows a network call; 0 = by platform and patch, on a CPU one (8 slices in 2D)
    config.window.weights = "uniform"  # of a window's voxels where windows overlap: uniform | gaussian (as nnU-Net)
    config.window.mirror = ()  # axes of ("x", "y", "z"): the mean over a window's 2^n mirrored copies, n axes
    config.window.skip_empty = True  # windows of the lowest intensity alone are one input to the network: it runs once
    config.threshold = 0.5  # probability from which a voxel is foreground
    config.vote = "mean"  # mean | majority: how the folds' models are joined
    return config.lock()  # a field that is not above is a mistake


def strong(config: ConfigDict, argument: str) -> ConfigDict:
    """A stage's recipe, better than the paper's where `argument` is "strong", as it is where that is empty."""
    if argument not in ("", "strong"):
        raise UserError(f"this recipe has no variant :{argument}; choose :strong, or leave it out")
    if argument:
        config.name += "_strong"
        config.augment.flip = ("x", "y", "z") if config.patch_size[2] != 1 else ("x", "y")
        config.augment.quarter_turns = config.stage in ("tumor", "brain")  # the others see how a patient lies
        config.augment.rotation = 15.0
        config.augment.scale = 0.15
        config.augment.intensity = 0.1
        config.window.weights = "gaussian"
        config.window.mirror = config.augment.flip  # a network knows the mirrored copies that it was trained on
    return config
