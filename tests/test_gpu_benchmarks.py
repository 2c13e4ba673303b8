"""What the campaign on a GPU would do, and what it says of what it found; it runs where there is a GPU."""

import argparse
import json
import sys

import pytest

from benchmarks import work
from benchmarks.gpu import campaign, jobs, runs
from benchmarks.gpu.plan import CUBLAS, NHWC, REWRITES, plan
from benchmarks.gpu.profiling import kind_of, tally
from benchmarks.gpu.report import report
from benchmarks.gpu.targets import least_gigabytes, targets
from raunet_jax.commands import run_facts
from raunet_jax.networks import lowering

MACHINE = {"name": "Card X", "command": "c", "when": "today", "commit": "abc", "versions": {"jax": "1"}}


@pytest.mark.parametrize("rehearse", [False, True])
def test_a_campaign_names_what_there_is(rehearse):
    rows = plan(rehearse)
    assert len({row["name"] for row in rows}) == len(rows)
    for row in rows:
        assert row["kind"] in jobs.KINDS
        assert row.get("network", "I") in work.NETWORKS
        lowering.rewrites(row.get("lowering", "auto"))  # raises for a name that is no rewrite
    assert set(REWRITES) == set(lowering.BY_PLATFORM["gpu"])


def test_a_rehearsal_leaves_out_no_kind_of_job():
    def kinds(rows):
        keys = ("kind", "library", "part", "compiled", "remat", "deterministic", "again")
        return {tuple(row.get(key) for key in keys) for row in rows}

    assert kinds(plan(rehearse=True)) == kinds(plan(rehearse=False))
    assert {NHWC, CUBLAS} <= {row.get("xla") for row in plan(rehearse=True)}


def test_what_the_targets_need_is_measured_before_all_else():
    rows = plan(rehearse=False)
    needed = [row for row in rows if row["kind"] in ("ceilings", "cascade") or row.get("compiled") == "default"]
    assert max(map(rows.index, needed)) < min(rows.index(row) for row in rows if row["group"] in "CES")


def step(library, ms, network="II-128", batch=2, xla=NHWC, **more):
    job = {"kind": "time", "library": library, "network": network, "batch": batch, "part": "train", "xla": xla}
    job |= {"precision": "bfloat16", "lowering": "auto", "channels_last": True, "compiled": ""} | more
    name = f"{network} b{batch} {library} {ms}"
    return {"name": name, "job": job, "ms": ms, "ms_range": [ms, ms], "gflop": 396.0, "peak_mb": 1, "first_s": 50}


def drawn_results():
    return [
        {"name": "A ceilings", "job": {"kind": "ceilings"}, "bf16 TFLOP/s": 700.0, "TB/s read and written": 5.0},
        step("ours", 10.0, xla=CUBLAS),
        step("ours", 9.6),
        step("ours", 5.0, precision="float32"),
        step("torch", 8.0),  # not compiled
        step("torch", 13.0, compiled="default"),
        step("torch", 12.0, compiled="reduce-overhead"),
        step("torch", 9.0, compiled="default", channels_last=False),
        step("ours", 10.0, "BraTS"),
        step("torch", 14.0, "BraTS", compiled="default"),
        step("ours", 8.0, "II-224", 4),
        {
            "name": "profile",
            "job": {"kind": "profile", "network": "II-128", "batch": 2},
            **{"ms_a_step": 10.0, "busy_ms_a_step": 6.0, "kernels_a_step": 1799.6},
            "by_kind_ms": {"convolutions": 4.5, "transposes": 1.5},
        },
        {
            "name": "cascade",
            "job": {"kind": "cascade"},
            **{"s": 7.5, "size_xyz": [512, 512, 214], "window_batches": {"voi": 8}},
            "stages": {"coarse": {"s": 1.0, "windows": 214}, "tumor": {"s": 6.5, "windows": 99}},
        },
        {"name": "broken", "job": step("ours", 1.0)["job"], "error": "ended | after 240 s"},
    ]


def test_targets_are_judged_by_the_fastest_of_each_side():
    ii, roofline, brats, cascade = (
        next(one for one in targets(drawn_results()) if one.name.startswith(name))
        for name in ("II-128", "II-224 b4", "BraTS", "512x512x200")
    )
    assert ii.found == pytest.approx(12.0 / 9.6) and ii.reached is False  # 1.25 where 1.3 is wanted
    assert ii.bound.startswith("launches: for 40 % of a step none of its 1800 kernels runs")
    assert "convolutions 75 %, transposes 25 %" in ii.bound
    assert brats.found == pytest.approx(1.4) and brats.reached is True and brats.bound == ""
    # 396 GFLOP of II-128 at batch 2; (224/128)^2 times the plane, twice the batch; by 700 TFLOP/s; bytes take less.
    least = 396 * (224 / 128) ** 2 * 2 / 700
    assert roofline.found == pytest.approx(least / 8.0, rel=0.002) and roofline.reached is True
    assert cascade.found == 7.5 and cascade.reached is False
    assert cascade.bound == "tumor 6.5 s (99 windows), coarse 1 s (214 windows)"


def test_a_target_of_which_nothing_is_known_is_neither_reached_nor_missed():
    assert [one.found for one in targets([])] == [None] * 6
    assert {one.reached for one in targets([])} == {None}


def test_bytes_that_a_step_must_move_are_those_of_its_convolutions_and_its_state(monkeypatch):
    two = [work.Convolution("a", 1000, 9, 2, 8), work.Convolution("b", 500, 1, 8, 4)]
    monkeypatch.setattr(work, "convolutions", lambda network: two)
    activations = 3 * 2 * (1000 * (2 + 8) + 500 * (8 + 4))  # three passes, bf16
    state = 24 * ((9 * 2 + 1) * 8 + (8 + 1) * 4)  # three float32 read and written
    assert least_gigabytes(work.NETWORKS["I"]) == pytest.approx((activations + state) / 1e9)


def test_the_report_names_the_card_and_says_of_each_target_whether_it_is_reached():
    text = report(drawn_results(), MACHINE)
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("|")}
    assert text.startswith("# raunet_jax on a GPU: Card X") and "jax 1" in text
    of = {name.split(",")[0]: line for name, line in lines.items()}
    assert "| 1.25 | not reached |" in of["II-128 b2"] and "| 1.4 | reached |" in of["BraTS b2"]
    assert "| 7.5 | not reached |" in of["512x512x200 CT through the cascade"]
    assert "| not measured |" in of["I b16"]
    assert "ended / after 240 s" in lines["broken"]  # a bar would end the cell
    row = lines["II-128 b2 ours 9.6"].split(" | ")
    assert row[3] == "0.833" and row[4] == "41.2"  # of PyTorch's fastest, 8 ms; 396 GFLOP in 9.6 ms
    assert "| II-128 | 2 | 208 |" in text  # patches/s of the faster flags: 2 / 9.6 ms


def test_kernels_that_overlap_keep_the_card_busy_once():
    events = [("gemm_fusion_1", 0.0, 4e6), ("gemm_fusion_2", 2e6, 4e6), ("loop_transpose_fusion", 8e6, 2e6)]
    found = tally(events, steps=2)
    assert found["busy_ms_a_step"] == pytest.approx((6 + 2) / 2)
    assert found["by_kind_ms"] == {"matrix products": 4.0, "transposes": 1.0}
    assert found["kernels"][0] == [4.0, 80.0, 1.0, "gemm_fusion"] and found["kernels_a_step"] == 1.5


def test_kernels_are_told_apart_by_their_names():
    names = {
        "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32": "convolutions",
        "void cudnn::engines_precompiled::nchwToNhwcKernel": "transposes",
        "cutlass_80_tensorop_bf16_s16816gemm_bf16_256x64": "matrix products",
        "input_reduce_fusion": "reductions",
        "MemcpyD2D": "copies",
        "loop_add_fusion": "other fusions",
    }
    assert {name: kind_of(name) for name in names} == names


def test_what_is_best_so_far_decides_the_flags():
    assert campaign.best_flags([]) == NHWC
    assert campaign.best_flags(drawn_results()) == NHWC
    slow = step("ours", 9.7, xla=NHWC) | {"first_s": 200}  # minutes to compile weigh 1.3
    assert campaign.best_flags([step("ours", 9.8, xla=CUBLAS), slow]) == CUBLAS


def test_a_campaign_goes_on_with_what_is_missing_or_failed(tmp_path, monkeypatch):
    args = {"out": tmp_path, "minutes": 1, "only": "A,G", "skip": "BraTS", "resume": "", "at_once": 1, "rehearse": True}
    monkeypatch.setattr(campaign.machine, "slug", lambda device: "here")
    first = [job["name"] for job in campaign.Campaign(argparse.Namespace(**args)).waiting]
    assert first and all(name[0] in "AG" and "BraTS" not in name for name in first)
    rows = [{"name": first[0]}, {"name": first[1], "error": "e"}, {"name": first[2], "skipped": "s"}]
    (tmp_path / "rehearsal-here.json").write_text(json.dumps({"results": rows}))
    going_on = campaign.Campaign(argparse.Namespace(**args))
    assert [job["name"] for job in going_on.waiting] == first[1:] and going_on.results == rows
    afresh = campaign.Campaign(argparse.Namespace(**args | {"resume": None}))
    assert [job["name"] for job in afresh.waiting] == first and afresh.results == []


def test_a_run_is_killed_once_it_has_a_checkpoint(tmp_path):
    script = "import pathlib, sys, time; w = pathlib.Path(sys.argv[1].partition('=')[2], 'fold_0', 'checkpoints')\n"
    script += "(w / 'writing').mkdir(parents=True); time.sleep(0.2); (w / '7').mkdir(); time.sleep(60)"
    (tmp_path / "run").mkdir()
    assert runs._kill_after_a_checkpoint([sys.executable, "-c", script], tmp_path / "run", None) == 7
    with pytest.raises(RuntimeError, match="status 3 before it was killed"):
        runs._kill_after_a_checkpoint([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "none", None)


def test_a_resumed_run_is_compared_by_its_epochs_and_its_state(tmp_path, monkeypatch):
    for name, losses in (("whole", [0.5, 0.25]), ("killed", [0.5, 0.375])):
        (tmp_path / name / "fold_0").mkdir(parents=True)
        rows = [dict.fromkeys(runs.EPOCH_KEYS, 1.0) | {"loss": loss} for loss in losses]
        (tmp_path / name / "fold_0" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fold = {"identical": False, "modules": {"Conv1": 0.125, "Res1": 0.0, "Res2": None}}
    monkeypatch.setattr(run_facts, "compare", lambda here, there: {"folds": {"fold_0": fold}})
    found = runs.compared(tmp_path / "whole", tmp_path / "killed")
    assert found["same_epochs"] is False and found["same_bits"] is False and found["epochs"] == 2
    assert found["largest_loss_difference"] == 0.125 and found["largest_weight_difference"] == 0.125
    same = runs.compared(tmp_path / "whole", tmp_path / "whole")
    assert same["same_epochs"] is True and same["largest_loss_difference"] == 0.0
