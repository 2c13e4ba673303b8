import contextlib
import hashlib
import io
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import liver, liver_coarse
from raunet_jax import recipe
from raunet_jax.checkpoints import Checkpoints
from raunet_jax.commands import inspect, inspection_tables, network_facts, run_facts
from raunet_jax.networks.raunet import make_network
from raunet_jax.training.optimizer import from_recipe, make_optimizer
from raunet_jax.training.step import TrainState


def drawn_parameters(seed=0):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(3, 3, 1, 4)).astype(np.float32)
    return {
        "Conv1": {"kernel": kernel, "bias": np.zeros(4, np.float32)},
        "Conv2": {"bias": np.array([3, 4], np.float32)},
    }


def save_checkpoint(folder, config, params, step=4, dice=0.5, statistic=1.0):
    statistics = {"Conv1_norm": {"var": np.full(4, statistic, np.float32)}}
    optimizer = make_optimizer(from_recipe(config, epoch_steps=2)).init(params)
    state = TrainState(np.int32(step), params, statistics, optimizer)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(step, state, {"losses": []}, config, dice)


def write_fold(folder, losses=(0.9, 0.5), dice=(0.2, 0.7)):
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"step": 2 * epoch, "epoch": epoch, "loss": loss, "validation_dice": score, "learning_rate": 1e-3}
        for epoch, (loss, score) in enumerate(zip(losses, dice, strict=True), start=1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def stage_run(folder, params=None, learning_rate=None, **checkpoint):
    config = liver_coarse.get_config()
    config.learning_rate = learning_rate or config.learning_rate
    folder.mkdir()
    (folder / "config.json").write_text(recipe.to_json(config))
    write_fold(folder / "fold_0")
    save_checkpoint(folder / "fold_0", config, params or drawn_parameters(), **checkpoint)
    return folder


@pytest.fixture(scope="module")
def cascade_facts():
    """What the cascade's recipe prints as JSON; traced once for all tests, since it takes seconds."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert inspect.main(liver.get_config(), as_json=True) == 0
    return json.loads(printed.getvalue())


@pytest.fixture
def coarse_facts(cascade_facts):
    return cascade_facts["stages"]["coarse"]


def test_networks_have_as_many_parameters_and_statistics_as_the_papers(cascade_facts):
    counts = {
        name: (stage["total_parameters"], stage["batch_statistics"]) for name, stage in cascade_facts["stages"].items()
    }
    assert counts == {"coarse": (737_897, 9_424), "voi": (4_420_849, 18_848), "tumor": (4_420_849, 18_848)}
    assert list(counts) == ["coarse", "voi", "tumor"]
    assert cascade_facts["total_parameters"] == 737_897 + 2 * 4_420_849


def test_tables_give_the_total_of_each_network_on_a_line_of_its_own(cascade_facts, capsys):
    inspection_tables.show_recipe(cascade_facts)
    lines = capsys.readouterr().out.splitlines()
    totals = [line for line in lines if line.startswith("total parameters:")]
    assert totals == [f"total parameters: {count}" for count in ("737,897", "4,420,849", "4,420,849")]
    assert any("Att1/after/expand/conv/kernel" in line and "1×1×1×64×256" in line for line in lines)


def test_every_parameter_has_a_row_that_adds_up(coarse_facts):
    rows = {row["name"]: row for row in coarse_facts["parameters"]}
    assert rows["Conv1/kernel"] == {"name": "Conv1/kernel", "shape": [3, 3, 1, 16], "dtype": "float32", "count": 144}
    assert all(row["count"] == math.prod(row["shape"]) for row in rows.values())
    assert sum(row["count"] for row in rows.values()) == coarse_facts["total_parameters"]


def test_state_is_four_floats_a_parameter_and_one_a_statistic(coarse_facts):
    assert coarse_facts["state_megabytes"] == pytest.approx(4 * (4 * 737_897 + 9_424) / 1e6)


def test_convolutions_and_products_are_counted_as_by_hand():
    def traced(image, kernel, matrix):
        @jax.jit
        def inner(x):  # counted although it is a function of its own
            return x @ matrix

        out = jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return inner(jax.nn.relu(out))

    shapes = [jnp.zeros(shape) for shape in ((2, 8, 8, 3), (3, 3, 3, 5), (5, 7))]
    convolution = 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)
    product = 2 * (2 * 8 * 8 * 7) * 5
    assert network_facts.count_flop(jax.make_jaxpr(traced)(*shapes).jaxpr) == convolution + product


def test_work_of_a_forward_pass_is_near_xlas_own_count(coarse_facts):
    # XLA counts the additions of batch norm, ReLU and bias as well, and leaves out products with padding.
    config = liver_coarse.get_config()
    network = make_network(config)
    image = jax.ShapeDtypeStruct((1, 256, 256, 1), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    xla = jax.jit(network.apply).lower(variables, image).cost_analysis()["flops"] / 1e9
    assert coarse_facts["forward_gflop"] == pytest.approx(xla, rel=0.06)


def test_activations_and_work_grow_with_the_patch(cascade_facts):
    voi, tumor = cascade_facts["stages"]["voi"], cascade_facts["stages"]["tumor"]  # one network, 224^2 and 128^2 x 32
    for cost in ("activation_megabytes", "forward_gflop"):
        assert voi[cost] / tumor[cost] == pytest.approx((224 / 128) ** 2, rel=0.01)


def test_impossible_patch_is_refused_with_the_remedy():
    config = liver_coarse.get_config()
    config.patch_size = (250, 256, 1)
    with pytest.raises(ValueError, match="250.*nearest valid size is 224 or 256"):
        inspect.main(config)


def test_hash_covers_path_dtype_shape_and_bytes_in_the_order_of_paths():
    kernel, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
    expected = hashlib.sha256()
    expected.update(b"a/bias float32 (3,)\n" + b"\x00\x00\x80\x3f" * 3)
    expected.update(b"a/kernel float32 (2, 3)\n" + kernel.tobytes())
    assert run_facts.parameters_sha256({"a": {"kernel": kernel, "bias": bias}}) == expected.hexdigest()
    as_fortran = {"a": {"bias": bias, "kernel": np.asfortranarray(kernel)}}
    assert run_facts.parameters_sha256(as_fortran) == expected.hexdigest()
    for other in (kernel.T, kernel.reshape(3, 2), kernel.astype(np.float64), -kernel):
        assert run_facts.parameters_sha256({"a": {"kernel": other, "bias": bias}}) != expected.hexdigest()


def test_run_shows_steps_scores_norms_and_hash(tmp_path):
    run = stage_run(tmp_path / "run")
    (run / "scores.json").write_text('{"rule": "lits2017", "liver": {"dice_per_case": 0.9}, "cases": [{"case": "a"}]}')
    facts = run_facts.inspect_run(run)
    fold = facts["folds"]["fold_0"]
    assert (fold["step"], fold["best_step"], fold["total_parameters"]) == (4, 4, 42)
    assert [(row["step"], row["validation_dice"]) for row in fold["metrics"]] == [(2, 0.2), (4, 0.7)]
    assert fold["module_norms"]["Conv2"] == 5.0
    kernel = drawn_parameters()["Conv1"]["kernel"].astype(np.float64)
    assert fold["parameter_norm"] == pytest.approx(math.sqrt(25 + (kernel**2).sum()))
    assert fold["non_finite"] == {} and fold["error"] is None and fold["recipe_differences"] == []
    assert facts["parameters_sha256"] == {"fold_0": run_facts.parameters_sha256(drawn_parameters())}
    assert facts["scores"] == {"rule": "lits2017", "liver": {"dice_per_case": 0.9}}
    assert facts["recipe"]["patch_size"] == [256, 256, 1]


def test_newest_checkpoint_is_the_one_hashed_though_another_was_better(tmp_path):
    run = stage_run(tmp_path / "run", dice=0.9)
    save_checkpoint(run / "fold_0", liver_coarse.get_config(), drawn_parameters(seed=1), step=6, dice=0.1)
    fold = run_facts.inspect_run(run)["folds"]["fold_0"]
    assert (fold["step"], fold["best_step"]) == (6, 4)
    assert fold["parameters_sha256"] == run_facts.parameters_sha256(drawn_parameters(seed=1))


def test_cascade_run_goes_by_stage_and_fold_in_number_order(tmp_path):
    config = liver.get_config()
    (tmp_path / "config.json").write_text(recipe.to_json(config))
    for fold in ("coarse/fold_0", "voi/fold_10", "voi/fold_2"):
        write_fold(tmp_path / fold)
    save_checkpoint(tmp_path / "coarse/fold_0", config.stages.coarse, drawn_parameters())
    facts = run_facts.inspect_run(tmp_path)
    assert list(facts["folds"]) == ["coarse/fold_0", "voi/fold_2", "voi/fold_10"]
    assert facts["folds"]["coarse/fold_0"]["step"] == 4 and facts["folds"]["voi/fold_2"]["step"] is None
    assert facts["parameters_sha256"]["voi/fold_10"] is None


def test_inspection_leaves_the_run_folder_as_it_was(tmp_path):
    run = stage_run(tmp_path / "run")
    write_fold(run / "fold_1")

    def listing():
        return {os.path.join(folder, name) for folder, *inside in os.walk(run) for names in inside for name in names}

    before = listing()
    assert inspect.main(None, run) == 0
    assert listing() == before


def test_value_that_is_not_finite_is_named_and_makes_the_status_one(tmp_path, capsys):
    params = drawn_parameters()
    params["Conv1"]["kernel"][0, 0, 0, :2] = np.nan, np.inf
    run = stage_run(tmp_path / "run", params)
    assert run_facts.inspect_run(run)["folds"]["fold_0"]["non_finite"] == {"params/Conv1/kernel": 2}
    assert inspect.main(None, run) == 1
    assert "fold_0: NOT FINITE: 2 values of params/Conv1/kernel" in capsys.readouterr().out
    assert inspect.main(None, run, as_json=True) == 1
    norms = json.loads(capsys.readouterr().out)["folds"]["fold_0"]["module_norms"]
    assert norms == {"Conv1": None, "Conv2": 5.0}


def test_damaged_checkpoint_is_reported_and_the_other_folds_are_read(tmp_path, capsys):
    run = stage_run(tmp_path / "run")
    write_fold(run / "fold_1")
    save_checkpoint(run / "fold_1", liver_coarse.get_config(), drawn_parameters())
    for path in (run / "fold_1" / "checkpoints" / "4" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:7])
    assert inspect.main(None, run, as_json=True) == 1
    folds = json.loads(capsys.readouterr().out)["folds"]
    assert folds["fold_0"]["error"] is None and folds["fold_0"]["step"] == 4
    assert folds["fold_1"]["error"].startswith(f"{run}/fold_1/checkpoints/4/state/")
    assert "no other checkpoint in" in folds["fold_1"]["error"] and folds["fold_1"]["step"] is None


def test_folder_that_is_no_run_and_a_broken_line_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json is missing: this is not a run folder"):
        run_facts.inspect_run(tmp_path)
    (tmp_path / "config.json").write_text(recipe.to_json(liver_coarse.get_config()))
    write_fold(tmp_path / "fold_0")
    with open(tmp_path / "fold_0" / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    with pytest.raises(ValueError, match="metrics.jsonl: line 3 is not JSON"):
        run_facts.inspect_run(tmp_path)


def test_run_compared_with_itself_has_no_difference(tmp_path, capsys):
    run = stage_run(tmp_path / "run")
    facts = run_facts.compare(run, run)
    assert facts["recipe"] == {} and facts["folds"]["fold_0"]["identical"] is True
    assert inspect.main(None, run, run) == 0
    assert "fold_0: the training states are identical, bit for bit" in capsys.readouterr().out


def test_comparison_says_which_fields_scores_and_modules_differ(tmp_path, capsys):
    here = stage_run(tmp_path / "here")
    changed = drawn_parameters()
    changed["Conv2"]["bias"] = np.array([0, 4], np.float32)  # 3 away, the larger norm being 5
    changed["Conv3"] = {"bias": np.ones(1, np.float32)}
    there = stage_run(tmp_path / "there", changed, learning_rate=3e-4, step=6, statistic=2.0)
    write_fold(there / "fold_1")
    for run, dice in ((here, 0.8), (there, 0.9)):
        (run / "scores.json").write_text(
            json.dumps({"rule": "lits2017", "liver": {"dice_per_case": dice}, "cases": []})
        )

    facts = run_facts.compare(here, there)
    assert facts["recipe"] == {"learning_rate": [1e-3, 3e-4]}
    assert facts["scores"] == {"liver.dice_per_case": [0.8, 0.9]}
    assert facts["only_there"] == ["fold_1"] and facts["only_here"] == []
    fold = facts["folds"]["fold_0"]
    assert fold["step"] == [4, 6] and fold["identical"] is False
    assert fold["modules"] == {"Conv1": 0.0, "Conv2": pytest.approx(0.6), "Conv3": None}
    assert fold["batch_statistics"] == {"Conv1_norm": pytest.approx(0.5)}

    assert inspect.main(None, here, there) == 0
    printed = capsys.readouterr().out
    assert "learning_rate" in printed and "Conv1_norm" in printed and "only there: fold_1" in printed


def test_what_is_missing_on_the_command_line_is_said(tmp_path):
    with pytest.raises(ValueError, match="name one with --workdir"):
        inspect.main(liver_coarse.get_config(), None, tmp_path)
    with pytest.raises(ValueError, match="nothing to inspect"):
        inspect.main(None)
