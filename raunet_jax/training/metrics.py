"""What is written down of a fold's training, an epoch at a time."""

import json
import logging

from raunet_jax import files
from raunet_jax.run_folder import FoldFolder

log = logging.getLogger("raunet_jax")


class MetricsLog:
    """`metrics.jsonl` and TensorBoard files of one fold; lines after the step that training resumes at are dropped."""

    def __init__(self, folder: FoldFolder, resumed_step: int):
        from tensorboardX import SummaryWriter  # where it is used: start-up need not wait for it

        self._path = folder.metrics
        rows, wrong = folder.read_metrics({"step": int})
        for error in wrong.values():
            log.warning(f"warning: {error.path}: {error.problem}; this line is left out")
        self._lines = [json.dumps(row) for row in rows if row["step"] <= resumed_step]
        self._board = SummaryWriter(str(folder.tensorboard), purge_step=resumed_step + 1)

    def write(self, row: dict) -> None:
        self._lines.append(json.dumps(row))
        files.write_text(self._path, "\n".join(self._lines) + "\n")
        for name in ("loss", "validation_dice", "learning_rate", "patches_per_second"):
            if row[name] is not None:
                self._board.add_scalar(name, row[name], row["step"])
        self._board.flush()

    def close(self) -> None:
        self._board.close()
