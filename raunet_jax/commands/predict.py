"""Segments anybody's scans."""

import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping

from raunet_jax import tasks
from raunet_jax.commands.inputs import Input, find_inputs
from raunet_jax.commands.prediction_summary import PredictionSummary
from raunet_jax.commands.request import Request, UsageError
from raunet_jax.disk import check_writable
from raunet_jax.errors import UserError
from raunet_jax.imaging.archives import Unpacked
from raunet_jax.imaging.checks import admit
from raunet_jax.imaging.intensity import kind_of
from raunet_jax.imaging.volume import Volume, is_prediction, read_scan
from raunet_jax.inference.cascade import Segmentation, needs_reference_liver, segment
from raunet_jax.inference.models import StageModel, last_model, load_cascade
from raunet_jax.inference.results import Result, result_file, volumes_of, write_case
from raunet_jax.names import MASK_ENDING, SCANNED_MASK_ENDING, UNCERTAINTY_ENDING
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
    maps = {"probabilities": request.probabilities, "uncertainty": request.uncertainty}
    summary = predict(models, inputs, output, **maps, series=request.series)
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
    series: str = "auto",
) -> dict:
    """Segment each scan below `paths` and write into `output`.

    What `results.write_case` writes of a case; summary.json, summary.csv and lesions.csv after every case, and at the
    end a PNG a case and index.html. A scan that fails is listed under "failed" in the summary, with the reason, and
    the others go on. Scans are read and results written while the device segments others, see `read_ahead.pipeline`.
    What earlier calls wrote into `output` of other scans stays, see `PredictionSummary`. `series` says which of a DICOM
    study's are segmented, see `find_inputs`.

    Returns:
        Of the paths given, `{"cases": [...], "failed": [{"input", "reason"}, ...]}`; "lesions" of a case are those of
        `lesion_table.lesions_of`.
    """
    from raunet_jax.report.display import display_settings
    from raunet_jax.report.prediction_page import write_prediction_page

    last, paths = last_model(models).config, list(paths)
    with Unpacked() as unpacked:
        scans, failed = find_inputs(paths, last, unpacked, series)
        prediction = _Prediction(models, output, {"probabilities": probabilities, "uncertainty": uncertainty}, unpacked)
        prediction.summary = summary = PredictionSummary(output, paths)
        names = summary.claim([scan.name for scan in scans], [prediction.source(scan) for scan in scans])
        scans = [dataclasses.replace(scan, name=name) for scan, name in zip(scans, names, strict=True)]
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
        summary.write()
        write_prediction_page(output, display_settings(last), names, unpacked)
    return summary.own


@dataclasses.dataclass
class _Read:
    """A scan in memory, and what was made of it so far."""

    volume: Volume
    seconds: float  # of reading, segmenting and writing; waiting left out
    found: Segmentation | None = None


class _Prediction:
    """The three steps of `pipeline` for each scan, and the summary that grows by them."""

    def __init__(
        self, models: Mapping[str, StageModel], output: pathlib.Path, maps: Mapping[str, bool], unpacked: Unpacked
    ):
        self._models, self._output, self._maps, self._unpacked = models, output, maps, unpacked
        self._config = last_model(models).config
        self.summary = self.bar = None

    def source(self, scan: Input) -> dict:
        """Where the scan lies, as the summary says it; a file in an archive as ARCHIVE!FILE."""
        images = [self._unpacked.shown(str(path.absolute())) for path in scan.images]
        return {"images": images, "channels": list(scan.channels), "series": list(scan.series)}

    def read(self, scan: Input) -> _Read:
        begin = time.monotonic()
        self._check_free(scan.name)
        data = self._config.data
        volume = read_scan(scan.images, kind_of(data.modalities), scan.channels, data.repair, scan.series)
        volume = admit(volume, scan.images, self._config)
        return _Read(dataclasses.replace(volume, name=scan.name), time.monotonic() - begin)

    def _check_free(self, name: str) -> None:
        """Raise UserError where a file of a user's own would be replaced."""
        endings = [MASK_ENDING, SCANNED_MASK_ENDING]
        if self._maps["probabilities"]:
            endings += [f"_{tasks.stage_of(stage).map_name}" for stage in self._models]
        if self._maps["uncertainty"]:
            endings.append(UNCERTAINTY_ENDING)
        for path in (result_file(self._output, name, ending) for ending in endings):
            if path.exists() and not is_prediction(path):
                raise UserError(f"{path} is there already and no result of ours; choose another --output")
        picture, page = self._output / f"{name}.png", self._output / "index.html"
        if picture.exists() and not (result_file(self._output, name).exists() or page.exists()):
            raise UserError(f"{picture} is there already and no picture of ours; choose another --output")

    def segment(self, scan: Input, case: _Read) -> _Read:
        begin = time.monotonic()
        found = segment(case.volume, self._models, announce=_announcer(self.bar, scan.name))
        return _Read(case.volume, case.seconds + time.monotonic() - begin, found)

    def finish(self, scan: Input, outcome, saving) -> None:
        reason = keep_result(outcome, lambda case: self._keep(scan, case, saving))
        if reason:
            shown = self._unpacked.shown
            self.fail(shown(str(scan.images[0])), shown(reason), scan.name)
        with saving():
            self.summary.write()
        self.bar.advance(1, scan.name)

    def _keep(self, scan: Input, case: _Read, saving) -> None:
        """Write what was found, and only then let the case count."""
        begin = time.monotonic()
        result = Result(
            scan.name, scan.images, scan.channels, case.volume, case.found, self._config.stage, series=scan.series
        )
        record = write_case(self._output, result, saving, **self._maps) | self.source(scan)
        record["warnings"] = [self._unpacked.shown(warning) for warning in record["warnings"]]
        for warning in record["warnings"]:
            log.warning(f"warning: {scan.name}: {warning.removeprefix(f'{scan.name}: ')}")
        places = {"input": record["images"][0], "mask": str(result_file(self._output, scan.name).absolute())}
        seconds = {"seconds": round(case.seconds + time.monotonic() - begin, 2)}
        self.summary.add({"case": scan.name} | places | volumes_of(result) | record | seconds)

    def fail(self, input: str, reason: str, name: str = "") -> None:
        self.summary.fail(input, reason, name)
        log.warning(f"cannot segment {input}: {reason}")


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
