"""A training that a user, or the machine's scheduler, stops goes on by the same command."""

import signal

from commands import REPOSITORY, start, succeed


def recipe():
    """The network of tests/test_earlier_runs.py, which is compiled once for both."""
    yield from (f"--config={REPOSITORY}/configs/liver_coarse.py", "--config.data.source=phantom")
    yield from ("--config.data.prepared=prepared", "--config.data.cases=3", "--config.data.workers=1")
    yield from ("--config.data.phantom_size=(64,64,32)", "--config.data.patches_per_case=6", "--config.epochs=4")
    yield from ("--config.patch_size=(32,32,1)", "--config.batch_size=4", "--config.network.width=4")
    yield from ("--config.network.stem_width=4", "--config.network.bottom_width=4", "--config.network.momentum=0.8")


def test_a_stopped_training_says_how_to_go_on_and_the_same_command_does(tmp_path):
    process, said = start(tmp_path, *recipe(), "--workdir=run"), []
    with process:
        for line in process.stderr:
            said.append(line)
            if "the first step took" in line:
                process.send_signal(signal.SIGTERM)
    said = "".join(said)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert said.splitlines()[-1] == "stopped by SIGTERM; the same command resumes"
    again = succeed(tmp_path, *recipe(), "--workdir=run")
    assert "going on from step" in again.stderr
    assert len((tmp_path / "run" / "fold_0" / "metrics.jsonl").read_text().splitlines()) == 4
