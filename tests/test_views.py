import pytest

from configs import liver_coarse, liver_tumor, liver_voi
from raunet_jax import tasks
from raunet_jax.imaging.geometry import Box
from raunet_jax.imaging.views import view_for

LIVER = Box((5, 100, 3), (40, 200, 180))


def test_every_stage_sees_what_the_paper_gives_it():
    shape = (60, 512, 400)
    coarse = view_for("coarse", shape, None, liver_coarse.get_config())
    assert coarse.box == Box((0, 0, 0), shape) and coarse.size == (256, 256)
    voi = view_for("voi", shape, LIVER, liver_voi.get_config())
    assert voi.box == Box((0, 90, 0), (50, 210, 190)) and voi.size == (224, 224)
    tumor = view_for("tumor", shape, LIVER, liver_tumor.get_config())
    assert tumor.box == voi.box and tumor.size is None
    brain = view_for("brain", shape, None, liver_tumor.get_config())
    assert brain.box == coarse.box and brain.size is None


def test_size_is_rows_by_columns():
    config = liver_coarse.get_config()
    config.patch_size = (256, 128, 1)
    assert view_for("coarse", (3, 8, 8), None, config).size == (128, 256)


@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize("region, box", [("volume", Box((0, 0, 0), (60, 300, 200))), ("liver box", LIVER)])
def test_a_stage_sees_what_its_row_says(monkeypatch, region, box, resized):
    stages = {"spleen": tasks.Stage("spleen", "spleen", 1, region, resized, "centered")}
    spleen = tasks.Task({"spleen": tasks.Structure(1, "#fff")}, None, "custom", stages)
    monkeypatch.setitem(tasks.TASKS, "spleen", spleen)
    config = liver_voi.get_config()
    config.box_margin = 0
    view = view_for("spleen", (60, 300, 200), LIVER, config)
    assert view.box == box and view.size == ((224, 224) if resized else None)


def test_a_missing_liver_and_an_unknown_stage_are_said():
    with pytest.raises(ValueError, match="no liver voxel"):
        view_for("voi", (9, 9, 9), None, liver_voi.get_config())
    with pytest.raises(ValueError, match="config.stage is 'liver'; choose coarse, voi, tumor, brain"):
        view_for("liver", (9, 9, 9), None, liver_voi.get_config())
