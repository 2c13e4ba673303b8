"""The cascade with rules in place of networks, so that each result is known by hand."""

import jax
import nibabel as nib
import numpy as np
import pytest

import exact_models
from exact_models import BODY, LIVER, NOTHING, TUMOR, model, models, rule
from raunet_jax import recipe
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.errors import UserError
from raunet_jax.imaging.geometry import Box, whole
from raunet_jax.imaging.volume import Grid, Volume, read_nifti, write_mask
from raunet_jax.inference import cascade
from raunet_jax.inference.cascade import segment
from raunet_jax.inference.models import ModelMissing, load_cascade, load_stage
from raunet_jax.networks.packing import unpack_all


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    exact_models.use_rules(monkeypatch)


def volume(hu, name="case-7"):
    grid = Grid(hu.shape[::-1], exact_models.affine(), None)
    return Volume(hu[..., None] if hu.ndim == 3 else hu, exact_models.affine(), grid, name)


def test_liver_and_tumors_are_found_to_the_voxel():
    hu, labels = exact_models.abdomen()
    found = segment(volume(hu), models())
    np.testing.assert_array_equal(found.labels, labels)
    assert found.labels.dtype == np.uint8
    assert found.box == exact_models.VOI
    assert found.warnings == []
    assert list(found.seconds) == ["coarse", "voi", "tumor"]
    assert {name: (values.dtype, values.shape) for name, values in found.probabilities.items()} == {
        "liver": (np.float32, hu.shape),
        "tumor": (np.float32, hu.shape),
    }


def placed(path) -> dict[int, set[tuple[float, ...]]]:
    """Where in space, in mm, a mask file has each of its labels."""
    image = nib.load(path)
    mask = np.asarray(image.dataobj)
    return {
        label: {
            tuple(np.round(place, 3)) for place in nib.affines.apply_affine(image.affine, np.argwhere(mask == label))
        }
        for label in (1, 2)
    }


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LAI", "PIR", "SAL"])
def test_masks_lie_on_the_same_place_in_space_whatever_the_files_orientation(tmp_path, orientation):
    hu, labels = exact_models.abdomen()
    scan = exact_models.scan(tmp_path, hu, orientation=orientation)
    write_mask(tmp_path / "mask.nii.gz", segment(scan, models()).labels, scan)
    there = {
        label: {
            tuple(np.round(exact_models.affine() @ (x, y, z, 1), 3)[:3]) for z, y, x in np.argwhere(labels == label)
        }
        for label in (1, 2)
    }
    assert placed(tmp_path / "mask.nii.gz") == there
    written, read = nib.load(tmp_path / "mask.nii.gz"), nib.load(tmp_path / "scan.nii.gz")
    assert written.shape == read.shape
    np.testing.assert_allclose(written.affine, read.affine)


def test_only_the_largest_liver_is_kept():
    """The spleen is as bright, and lies outside the liver's box: stage voi, given the whole volume, drops it too."""
    hu, labels = exact_models.abdomen()
    for stage in ("coarse", "voi"):
        np.testing.assert_array_equal(segment(volume(hu), models(stage)).labels, np.minimum(labels, 1))


def test_tumor_is_never_found_outside_the_liver():
    hu, labels = exact_models.abdomen()
    found = segment(volume(hu), models())
    assert (found.probabilities["tumor"][exact_models.RIB] == 1).all()  # the network is sure of it
    assert (found.labels[exact_models.RIB] == 0).all()
    assert ((found.labels == 2) <= (labels > 0)).all()


def test_volumes_smaller_than_a_patch_in_every_direction_are_segmented():
    hu = np.full((5, 20, 16), BODY, np.int16)
    hu[1:4, 6:14, 4:12], hu[2, 8:10, 6:8] = LIVER, TUMOR
    found = segment(volume(hu), models("voi", "tumor") | {"coarse": model("coarse")})
    assert (found.labels == 2).sum() == 4
    assert (found.labels[hu == TUMOR] == 2).all()
    # Of the liver, resized from 20 x 16 pixels to 32 x 32 and back, only the edge may blur.
    assert (found.labels[1:4, 7:13, 5:11] > 0).all()
    assert (found.labels[[0, 4]] == 0).all()


def test_the_padding_of_a_thin_box_is_as_dark_as_the_scans_darkest_voxel(monkeypatch):
    """A network that answers 1 for air would otherwise find tumor, or none, depending on what fills the patch."""
    hu, _ = exact_models.abdomen()
    hu[0, 0, 0] = -1000
    seen = []

    def remember(network):
        def forward(variables, windows, low, high):
            seen.append((np.asarray(windows), float(low[0]), float(high[0])))
            return np.zeros(windows.shape[:4], np.float32)

        return forward

    monkeypatch.setattr(cascade, "make_forward", remember)
    liver = np.zeros(hu.shape, np.uint8)
    liver[exact_models.LIVER_BOX] = 1
    segment(volume(hu), models("tumor"), liver)
    windows = np.concatenate([windows for windows, _, _ in seen])
    assert windows.shape[1:] == (32, 32, 32, 1)
    np.testing.assert_array_equal(windows[0, :20, ..., 0], hu[exact_models.VOI.slices])
    assert (windows[:, 20:] == -1000).all()
    assert seen[0][1:] == (-100, 180)  # the range that training normalizes by: of the volume, within the HU window


def test_each_stage_is_given_the_intensities_it_was_trained_on(monkeypatch):
    seen = []

    def remember(network):
        def forward(variables, windows, low, high):
            seen.append((float(low[0]), float(high[0])))
            return exact_models.rule_forward(network)(variables, windows, low, high)

        return forward

    monkeypatch.setattr(cascade, "make_forward", remember)
    hu, _ = exact_models.abdomen()
    hu[0, 0, :2] = -1000, 1000  # so that the windows' own ends are the extremes
    windows = {"coarse": (-200.0, 250.0), "voi": (-100.0, 200.0), "tumor": (-50.0, 175.0)}
    segment(volume(hu), {stage: model(stage, window_hu=window) for stage, window in windows.items()})
    assert list(dict.fromkeys(seen)) == list(windows.values())


def test_no_liver_is_an_empty_mask_and_a_warning_with_the_cases_name():
    empty = np.full(exact_models.SHAPE, BODY, np.int16)
    found = segment(volume(empty), models())
    assert not found.labels.any()
    assert found.box == whole(empty.shape)
    assert found.warnings == [
        "case-7: stage coarse found no liver; the whole volume is searched instead",
        "case-7: no liver found; the mask is empty",
    ]


def test_when_stage_coarse_finds_no_liver_the_whole_volume_is_searched():
    hu, labels = exact_models.abdomen()
    blind = models() | {"coarse": model("coarse", rule(NOTHING))}
    found = segment(volume(hu), blind)
    np.testing.assert_array_equal(found.labels > 0, labels > 0)
    assert found.box == Box((0, 0, 0), hu.shape)
    assert found.warnings == ["case-7: stage coarse found no liver; the whole volume is searched instead"]


def test_a_liver_without_tumor_is_no_reason_to_warn():
    hu, labels = exact_models.abdomen()
    found = segment(volume(hu), models() | {"tumor": model("tumor", rule(NOTHING))})
    np.testing.assert_array_equal(found.labels, np.minimum(labels, 1))
    assert found.warnings == []


def test_stage_tumor_alone_uses_the_liver_it_is_given():
    hu, labels = exact_models.abdomen()
    found = segment(volume(hu), models("tumor"), labels > 0)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.box == exact_models.VOI
    assert not segment(volume(hu), models("tumor"), np.zeros_like(labels)).labels.any()
    with pytest.raises(ValueError, match="case-7: stage tumor alone looks inside a liver that nobody has segmented"):
        segment(volume(hu), models("tumor"))


@pytest.mark.parametrize("reference", [None, np.zeros(exact_models.SHAPE, np.uint8)])
def test_stage_voi_alone_searches_the_whole_volume_when_no_liver_is_known(reference):
    hu, labels = exact_models.abdomen()
    found = segment(volume(hu), models("voi"), reference)
    np.testing.assert_array_equal(found.labels, np.minimum(labels, 1))
    assert found.box == whole(hu.shape)


def folds(*probabilities):
    """One rule a fold: its probability for voxels at LIVER; it is sure of the rest."""
    return [rule((LIVER, LIVER), inside, 0.0) for inside in probabilities]


@pytest.mark.parametrize(
    "vote, probabilities, found",
    [
        ("mean", (0.9, 0.4, 0.4), True),  # mean .567, one fold of three
        ("majority", (0.9, 0.4, 0.4), False),
        ("mean", (0.5, 0.5, 0.1), False),  # mean .367, two folds of three
        ("majority", (0.5, 0.5, 0.1), True),
        ("majority", (0.9, 0.1), False),  # half of the folds are no majority
        ("mean", (0.5,), True),  # the threshold itself is enough
    ],
)
def test_folds_are_joined_by_mean_or_by_majority(vote, probabilities, found):
    hu = np.full((32, 32, 32), BODY, np.int16)
    hu[4:9, 4:9, 4:9] = LIVER
    stage = model("tumor", *folds(*probabilities), vote=vote)
    result = segment(volume(hu), {"tumor": stage}, np.ones(hu.shape, np.uint8))
    np.testing.assert_array_equal(result.labels == 2, (hu == LIVER) & found)
    np.testing.assert_allclose(result.probabilities["tumor"][hu == LIVER], np.mean(probabilities), rtol=1e-6)


def test_the_folds_of_the_last_stage_are_counted_where_they_reach_the_threshold():
    """Of four voxels' worth of ranges, fold k finds those from k on; stage voi's own folds do not count."""
    hu, labels = exact_models.abdomen()
    at = np.s_[8, 22, 16:20]
    hu[at] = (200, 210, 220, 230)
    tumor = model("tumor", *[rule((200 + 10 * fold, 230), 0.8, 0.1) for fold in range(3)])
    found = segment(volume(hu), models("coarse") | {"voi": model("voi", *folds(0.9, 0.9)), "tumor": tumor})
    assert found.folds == 3 and found.votes.dtype == np.uint8
    assert found.votes[at].tolist() == [1, 2, 3, 3]
    assert found.votes.sum() == 9
    np.testing.assert_allclose(found.probabilities["tumor"][at], [1 / 3, 1.7 / 3, 0.8, 0.8], rtol=1e-6)
    head = np.zeros((4, 5, 6, 4), np.float32)
    head[1, 2, 3] = 500.0
    two = segment(volume(head), {"brain": model("brain", rule((1, 32767)), rule(NOTHING))})
    assert two.folds == 2 and two.votes[1, 2, 3] == two.votes.sum() == 1


def test_stages_without_lesions_keep_no_votes():
    hu, _ = exact_models.abdomen()
    assert segment(volume(hu), models("coarse", "voi")).votes is None
    assert segment(volume(np.full_like(hu, BODY)), models()).votes is None


def test_folds_of_equal_say_overlap_evenly_where_windows_do():
    """Each fold's sums start from nothing: three folds that agree give what one of them gives."""
    hu, _ = exact_models.abdomen()
    one, three = (
        segment(volume(hu), {"voi": model("voi", *folds(*[0.7] * count))}).probabilities["liver"] for count in (1, 3)
    )
    np.testing.assert_allclose(three, one, atol=1e-6)


def test_progress_counts_the_windows_of_all_folds():
    told = {}

    def announce(stage, windows):
        told[stage] = [windows, 0]

        def advance(count):
            told[stage][1] += count

        return advance

    three = model("voi", *folds(0.7, 0.7, 0.7))
    segment(volume(exact_models.abdomen()[0]), {"coarse": model("coarse"), "voi": three}, announce=announce)
    # coarse: 20 slices of 32 x 32, whole; voi: a box of 20 x 32 x 32, padded to one window a fold
    assert told == {"coarse": [20, 20], "voi": [3, 3]}


def clipping_forward(calls):
    """Like a network: blind to what lies outside the intensity range, and no two places of a window answer alike."""

    def make_forward(network):
        def forward(variables, windows, low, high):
            calls.append(windows.shape)
            place = np.linspace(0, 0.5, np.prod(windows.shape[1:4]), dtype=np.float32).reshape(windows.shape[1:4])
            return (np.clip(windows, low, high).max(axis=-1) - low[0]) / (2 * (high[0] - low[0])) + place

        return forward

    return make_forward


def test_windows_of_air_are_all_answered_by_one_call_of_the_network_with_the_same_result(monkeypatch):
    """A head in a corner of 2 x 2 x 3 windows without overlap, of which 10 hold nothing but air."""
    calls, told, found = [], [], []
    monkeypatch.setattr(cascade, "make_forward", clipping_forward(calls))
    head = np.full((64, 64, 96, 4), -1000, np.float32)
    head[4:20, 8:24, 8:60] = 300
    head[4, 8, 8, 1] = 900
    for skip in (True, False):
        calls.clear()
        stage = model("brain", window={"skip_empty": skip, "step": (32, 32, 32), "batch_size": 1})
        found.append(segment(volume(head), {"brain": stage}, announce=lambda *_: told.append))
        assert len(calls) == (3 if skip else 12)
    assert sum(told) == 2 * 12
    np.testing.assert_array_equal(*[each.probabilities["brain"] for each in found])
    np.testing.assert_array_equal(*[each.labels for each in found])


def test_windows_of_ct_are_empty_at_or_below_the_lower_end_of_the_hu_window(monkeypatch):
    calls = []
    monkeypatch.setattr(cascade, "make_forward", clipping_forward(calls))
    hu = np.full((32, 32, 96), -1000, np.int16)
    hu[:, :, 32:64] = -100  # still no more than the window's lower end
    hu[5, 5, 70] = -99
    hu[6, 6, 80] = 150
    segment(volume(hu), {"tumor": model("tumor", window={"step": (32, 32, 32)})}, np.ones(hu.shape, np.uint8))
    assert len(calls) == 1  # of three windows at once: an empty one, that with the voxels, and one that fills up


def test_weights_and_mirroring_of_the_recipe_reach_the_windows():
    """An answer that tells left from right, and the place in the window, by hand: 1 at a window's left half."""
    hu = np.full((32, 32, 48), LIVER, np.int16)

    def probabilities(**window):
        stage = model("tumor", window={"step": (16, 32, 32)} | window)
        return segment(volume(hu), {"tumor": stage}, np.ones(hu.shape, np.uint8)).probabilities["tumor"]

    def left_half(network):
        return lambda variables, windows, low, high: np.broadcast_to(np.arange(32) < 16, windows.shape[:4]) * 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "make_forward", left_half)
        plain, both = probabilities(), probabilities(mirror=("x",))
        weighted = probabilities(weights="gaussian")
    np.testing.assert_array_equal(plain[0, 0], np.repeat([1, 0.5, 0], 16))  # where two windows overlap they disagree
    np.testing.assert_array_equal(both, np.full(hu.shape, 0.5, np.float32))
    right, left = (np.exp(-(((np.arange(16) - shift) / 4) ** 2) / 2) for shift in (-0.5, 15.5))
    np.testing.assert_allclose(weighted[0, 0, 16:32], left / (left + right), rtol=1e-5)


def test_windows_or_a_vote_that_cannot_be_are_refused_before_any_scan_is_read(tmp_path):
    save_run(tmp_path, model("coarse").config, [(0.4,)])
    with pytest.raises(ValueError, match="config.vote is 'most'; choose mean or majority"):
        load_cascade(tmp_path, model("coarse", vote="most").config)
    for window, said in (
        ({"mirror": ("z",)}, r"config.window.mirror has 'z'; windows of \(z, y, x\) \(1, 32, 32\) have axes x, y"),
        ({"weights": "flat"}, "config.window.weights is 'flat'; choose uniform or gaussian"),
    ):
        with pytest.raises(ValueError, match=said):
            load_cascade(tmp_path, model("coarse", window=window).config)


def test_a_run_saved_before_windows_had_weights_is_loaded_and_predicts_as_it_did(tmp_path):
    config = model("coarse").config
    with config.unlocked():
        for field in ("weights", "mirror", "skip_empty"):
            del config.window[field]
    save_run(tmp_path, config, [(0.4,)])
    (tmp_path / "config.json").write_text(recipe.to_json(config))
    loaded = load_cascade(tmp_path)["coarse"]
    assert loaded.config.window.to_dict() == model("coarse").config.window.to_dict()
    hu, labels = exact_models.abdomen()
    found = segment(volume(hu), {"coarse": model("coarse", **{"window": loaded.config.window})})
    np.testing.assert_array_equal(found.labels, np.minimum(labels, 1))


def test_the_coarse_map_is_kept_only_where_the_liver_has_no_finer_one():
    hu, _ = exact_models.abdomen()
    assert (segment(volume(hu), models("coarse")).probabilities["liver"] == 1).any()
    blind = models("coarse") | {"voi": model("voi", rule(NOTHING))}
    assert not segment(volume(hu), blind).probabilities["liver"].any()


def test_the_brain_is_searched_whole_and_its_labels_are_one():
    head = np.zeros((10, 20, 24, 4), np.float32)
    head[2:6, 4:9, 5:11, 3] = 500.0  # seen in one modality only
    found = segment(volume(head), {"brain": model("brain")})
    np.testing.assert_array_equal(found.labels, head[..., 3] > 0)
    assert list(found.probabilities) == ["brain"]
    empty = segment(volume(np.zeros_like(head)), {"brain": model("brain")})
    assert not empty.labels.any() and empty.warnings == ["case-7: nothing found; the mask is empty"]


@pytest.mark.parametrize("stage", ["coarse", "voi", "tumor"])
def test_a_network_that_gives_nan_is_no_empty_mask(stage, tmp_path):
    hu, _ = exact_models.abdomen()
    models = exact_models.models()
    models[stage] = model(stage, rule(exact_models.FINDS[stage]), rule(exact_models.NOTHING, outside=np.nan))
    volume = read_nifti(exact_models.write(tmp_path / "ct.nii.gz", hu))
    with pytest.raises(UserError, match=f"ct: stage {stage}'s network 2 of 2 gives NaN .*--mode=inspect"):
        segment(volume, models)


def save_run(folder, config, dices):
    """Checkpoints at steps 1, 2, …; each one's only weight is its step."""
    for fold, scores in enumerate(dices):
        with Checkpoints(folder / f"fold_{fold}" / "checkpoints") as checkpoints:
            for step, dice in enumerate(scores, start=1):
                weight = {"kernel": np.full(2, 10 * fold + step, np.float32)}
                state = {"params": weight, "batch_stats": {"mean": np.zeros(1, np.float32)}, "step": np.int32(step)}
                checkpoints.save(step, state, {}, config, dice)


def weights(stage):
    return [float(variables["params"]["kernel"][0]) for variables in unpack_all(stage.variables)]


def test_a_cascade_is_loaded_from_its_best_checkpoints_with_the_thresholds_asked_for(tmp_path):
    saved = model("tumor").config
    save_run(tmp_path, saved, [(0.4, 0.9, 0.5), (0.7, 0.2)])
    asked = model("tumor", threshold=0.3, vote="majority").config
    asked.window.batch_size = 5
    asked.data.repair, asked.data.check = True, "warn"
    (tmp_path / "config.json").write_text(recipe.to_json(asked))
    loaded = load_cascade(tmp_path)
    assert list(loaded) == ["tumor"] and weights(loaded["tumor"]) == [2, 11]
    assert (loaded["tumor"].config.threshold, loaded["tumor"].config.vote) == (0.3, "majority")
    assert loaded["tumor"].config.window.batch_size == 5
    assert (loaded["tumor"].config.data.repair, loaded["tumor"].config.data.check) == (True, "warn")
    assert loaded["tumor"].config.patch_size == saved.patch_size
    assert set(loaded["tumor"].variables[0]) == {"params", "batch_stats"}
    assert weights(load_cascade(tmp_path, fold=1)["tumor"]) == [11]


def test_an_accelerator_is_given_each_folds_variables_as_one_array(tmp_path, monkeypatch):
    save_run(tmp_path, model("tumor").config, [(0.4, 0.9), (0.7, 0.2)])
    stages = []
    for platform in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        stages.append(load_stage(tmp_path))
    assert [len(jax.tree.leaves(stage.variables)) for stage in stages] == [4, 2]
    assert weights(stages[0]) == weights(stages[1]) == [2, 11]


def test_a_missing_model_is_named_with_its_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/config.json is missing: this is not a run folder"):
        load_cascade(tmp_path)
    with pytest.raises(ModelMissing, match=f"{tmp_path} holds no trained model .*run --mode=train first"):
        load_stage(tmp_path)
    save_run(tmp_path, model("voi").config, [(0.4,)])
    with pytest.raises(ModelMissing, match=f"{tmp_path}/fold_3/checkpoints holds no checkpoint: this fold has not"):
        load_stage(tmp_path, [0, 3])
    (tmp_path / "fold_1" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ModelMissing, match=f"{tmp_path}/fold_1/checkpoints holds no checkpoint"):
        load_stage(tmp_path)


def test_a_second_piece_of_like_size_is_flagged(tmp_path):
    hu, _ = exact_models.abdomen()
    rival = hu.copy()
    rival[6:14, 44:56, 44:52] = exact_models.LIVER  # two thirds of the liver's size
    for name, voxels, flagged in (("one", hu, False), ("two", rival, True)):
        volume = read_nifti(exact_models.write(tmp_path / f"{name}.nii.gz", voxels))
        said = " ".join(segment(volume, exact_models.models()).warnings)
        assert ("stage coarse found two pieces of like size" in said) == flagged


def test_a_liver_that_reaches_the_edge_of_its_box_is_flagged_unless_the_scan_ends_there(tmp_path):
    """Localization that finds half of the liver, and a margin too small to make up for it."""
    hu, _ = exact_models.abdomen()
    hu[6:14, 20:26, 16:28] = 95  # this half is bright enough for stage 2 alone
    volume = read_nifti(exact_models.write(tmp_path / "ct.nii.gz", hu))
    models = exact_models.models()
    models["coarse"] = model("coarse", rule((100, 165)))
    models["voi"] = model("voi", rule((90, 165)), box_margin=2)
    (warning,) = segment(volume, models).warnings
    assert warning == "ct: the liver reaches the edge of stage 1's box at y 24; it may be cut"
    border = np.full((20, 64, 64), exact_models.BODY, np.int16)
    border[0:14, 20:32, 16:28] = exact_models.LIVER  # the scan begins within the liver
    volume = read_nifti(exact_models.write(tmp_path / "border.nii.gz", border))
    assert not any("may be cut" in said for said in segment(volume, exact_models.models()).warnings)
