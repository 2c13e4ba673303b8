"""Segments anybody's scans."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping

from raunet_jax import tasks
from raunet_jax.commands.inputs import Input, find_inputs
from raunet_jax.commands.request import Request, UsageError
from raunet_jax.disk import check_writable
from raunet_jax.errors import UserError
from raunet_jax.files import write_csv, write_json
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.imaging.volume import Volume, is_prediction, read_scan
from raunet_jax.inference import lesion_table
from raunet_jax.inference.cascade import Segmentation, needs_reference_liver, segment
from raunet_jax.inference.models import StageModel, last_model, load_cascade
from raunet_jax.inference.results import Result, result_file, volumes_of, write_case
from raunet_jax.progress import progress
from raunet_jax.read_ahead import keep_result, pipeline

log = logging.getLogger("raunet_jax")


def run(request: Request) -> int:
    inputs = [pathlib.Path(path) for path in request.needed("input")]
    output = pathlib.Path(request.needed("output"))
    check_writable(output, "--output")
    models = load_cascade(request.run, request.config)
    if needs_reference_liver(models):
        raise UsageError(
            f"{request.run} has stage {', '.join(models)} alone, which looks inside a liver that nobody has segmented; "
            "predict with the run of a whole cascade (--config=configs/liver.py)"
        )
    _say_what_is_not_looked_for(models)
    summary = predict(models, inputs, output, probabilities=request.probabilities, uncertainty=request.uncertainty)
    print(f"{len(summary['cases'])} segmented, {len(summary['failed'])} failed; look at {output / 'index.html'}")
    for failure in summary["failed"]:
        log.warning(f"failed: {failure['input']}: {failure['reason']}")
    return 1 if summary["failed"] or not summary["cases"] else 0


def _say_what_is_not_looked_for(models: Mapping[str, StageModel]) -> None:
    last = last_model(models).config.stage
    missing = [name for name in tasks.task_of(last).stages if name not in models]
    sought = {tasks.stage_of(name).structure for name in models}
    structures = [tasks.stage_of(name).structure for name in missing]
    unknown = [name for name in dict.fromkeys(structures) if name not in sought]
    if unknown:
        log.warning(
            f"this run has no stage {', '.join(missing)}: it looks for no {', '.join(unknown)}, and none is found"
        )


def predict(
    models: Mapping[str, StageModel],
    paths: Iterable[pathlib.Path],
    output: pathlib.Path,
    probabilities: bool = False,
    uncertainty: bool = False,
) -> dict:
    """Segment each scan below `paths` and write into `output`.

    What `results.write_case` writes of a case; summary.json, summary.csv and lesions.csv after every case, and at the
    end a PNG a case and index.html. A scan that fails is listed under "failed" in the summary, with the reason, and
    the others go on. Scans are read and results written while the device segments others, see `read_ahead.pipeline`.

    Returns:
        The summary: `{"cases": [...], "failed": [{"input", "reason"}, ...]}`; "lesions" of a case are those of
        `lesion_table.lesions_of`.
    """
    from raunet_jax.report.display import display_settings
    from raunet_jax.report.prediction_page import write_prediction_page

    last = last_model(models).config
    scans, failed = find_inputs(paths, last)
    prediction = _Prediction(models, output, {"probabilities": probabilities, "uncertainty": uncertainty})
    for failure in failed:
        prediction.fail(**failure)
    with progress("predict", len(scans)) as prediction.bar:
        pipeline(
            scans,
            prediction.read,
            prediction.segment,
            prediction.finish,
            lambda scan_read: scan_read.volume.voxels.size,
        )
    prediction.write_summary()
    write_prediction_page(output, display_settings(last))
    return prediction.summary


@dataclasses.dataclass
class _Read:
    """A scan in memory, and what was made of it so far."""

    volume: Volume
    seconds: float  # of reading, segmenting and writing; waiting left out
    found: Segmentation | None = None


class _Prediction:
    """The three steps of `pipeline` for each scan, and the summary that grows by them."""

    def __init__(self, models: Mapping[str, StageModel], output: pathlib.Path, maps: Mapping[str, bool]):
        self._models, self._output, self._maps = models, output, maps
        self._config = last_model(models).config
        self.summary = {"cases": [], "failed": []}
        self.bar = None

    def read(self, scan: Input) -> _Read:
        begin = time.monotonic()
        mask = result_file(self._output, scan.name)
        if mask.exists() and not is_prediction(mask):
            raise UserError(f"{mask} is there already and no prediction of ours; choose another --output")
        data = self._config.data
        volume = read_scan(scan.images, kind_of(data.modalities), scan.channels, data.repair)
        return _Read(dataclasses.replace(volume, name=scan.name), time.monotonic() - begin)

    def segment(self, scan: Input, case: _Read) -> _Read:
        begin = time.monotonic()
        found = segment(case.volume, self._models, announce=_announcer(self.bar, scan.name))
        return _Read(case.volume, case.seconds + time.monotonic() - begin, found)

    def finish(self, scan: Input, outcome, saving) -> None:
        reason = keep_result(outcome, lambda case: self._keep(scan, case, saving))
        if reason:
            self.fail(str(scan.images[0]), reason)
        with saving():
            self.write_summary()
        self.bar.advance(1, scan.name)

    def _keep(self, scan: Input, case: _Read, saving) -> None:
        """Write what was found, and only then let the case count."""
        begin = time.monotonic()
        result = Result(scan.name, scan.images, scan.channels, case.volume, case.found, self._config.stage)
        record = write_case(self._output, result, saving, **self._maps)
        for warning in record["warnings"]:
            log.warning(f"warning: {warning}")
        mask = result_file(self._output, scan.name)
        places = {"input": str(scan.images[0].absolute()), "mask": str(mask.absolute())}
        seconds = {"seconds": round(case.seconds + time.monotonic() - begin, 2)}
        self.summary["cases"].append({"case": scan.name} | places | volumes_of(result) | record | seconds)

    def fail(self, input: str, reason: str) -> None:
        self.summary["failed"].append({"input": input, "reason": reason})
        log.warning(f"cannot segment {input}: {reason}")

    def write_summary(self) -> None:
        cases = self.summary["cases"]
        write_json(self._output / "summary.json", self.summary)
        rows = [
            {name: value for name, value in case.items() if name not in ("box", "images", "channels", "lesions")}
            | {"warnings": "; ".join(case["warnings"])}
            for case in cases
        ]
        write_csv(self._output / "summary.csv", rows, ["case"])
        tables = {case["case"]: case["lesions"] for case in cases if case["lesions"] is not None}
        if tables:
            lesion_table.write_csv(self._output / "lesions.csv", tables)


def _announcer(bar, name: str) -> Callable:
    """`segment`'s `announce`, which shows a case's windows beside the bar of the cases."""

    def announce(stage, windows):
        done = 0

        def advance(count):
            nonlocal done
            done += count
            bar.advance(0, f"{name} {stage} {done}/{windows}")

        return advance

    return announce
