"""What is written down of a fold's training, an epoch at a time."""

import json

from raunet_jax import files
from raunet_jax.run_folder import FoldFolder


class MetricsLog:
    """`metrics.jsonl` and TensorBoard files of one fold; lines after the step that training resumes at are dropped."""

    def __init__(self, folder: FoldFolder, resumed_step: int):
        from tensorboardX import SummaryWriter  # where it is used: start-up need not wait for it

        self._path = folder.metrics
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        self._lines = [line for line in lines if json.loads(line)["step"] <= resumed_step]
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
