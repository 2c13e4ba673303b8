"""What several calls of predict, one after another or at once, say of the scans in one folder of results."""

import contextlib
import fcntl
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from raunet_jax.errors import FileError
from raunet_jax.files import read_json, write_csv, write_json
from raunet_jax.imaging.volume import is_prediction
from raunet_jax.inference import lesion_table
from raunet_jax.inference.results import result_file
from raunet_jax.names import numbered

log = logging.getLogger("raunet_jax")

_LISTS = ("cases", "failed", "unfinished")
_SHAPE = {f"{name}?": ([{"input" if name == "failed" else "case": str}], None) for name in _LISTS}
_NOT_IN_CSV = ("box", "images", "channels", "series", "plausibility", "lesions")
_REMEDY = "move it away with the masks that it tells of, or name another --output"
_AGAIN = "this is the result of an earlier call; a later one could not segment the scan again: "


class PredictionSummary:
    """The lines of one call's scans among those that other calls left in the same folder, or are writing there.

    Attributes:
        own: `{"cases": [...], "failed": [{"input", "reason"}, ...]}` of this call alone.
    """

    def __init__(self, output: pathlib.Path, paths: Iterable[pathlib.Path]):
        """`paths`: those that the call was given; what earlier calls failed at below them is looked at anew."""
        self.own = {"cases": [], "failed": []}
        self._output, self._paths = output, [os.path.abspath(path) for path in paths]
        self._claims: dict[str, dict] = {}  # scans that are not finished, by name
        self._names: set[str] = set()  # of all scans of this call
        self._failed: dict[str, str] = {}  # name of a scan: why it could not be segmented

    def claim(self, names: Sequence[str], sources: Sequence[dict]) -> list[str]:
        """The names under which this call's scans are written, and nobody else's are from now on.

        A scan that has a line in the summary keeps its name, and its line and mask will be replaced. The name of
        another scan's line, or of a mask of ours that no line tells of, is not taken: the scan is numbered, and this is
        said.

        Args:
            names: that the scans would have by themselves.
            sources: "images", "channels" and "series" of each scan, by which it is known again.

        Raises:
            FileError: the summary that is there cannot be read.
        """
        with self._turn():
            summary = self._read()
            lines = {case["case"]: case for case in (*summary["unfinished"], *summary["cases"])}
            known = {_key(case): name for name, case in lines.items()}
            taken = _Taken(self._output, set(lines))
            for name, source in zip(names, sources, strict=True):
                chosen = known.pop(_key(source), None) or numbered(name, taken)
                if chosen != name:
                    whose = f" of {_key(lines[name])[0][0]}" if name in lines else ""
                    there = f"{self._output} holds a result called {name}{whose}"
                    log.warning(f"{source['images'][0]} is called {chosen}, as {there}")
                taken.names.add(chosen)
                self._claims[chosen] = {"case": chosen} | source
            self._names = set(self._claims)
            claimed = list(self._claims)
            self._write(summary)
        return claimed

    def add(self, case: dict) -> None:
        """A scan is segmented, and all its files are written."""
        self.own["cases"].append(case)
        self._claims.pop(case["case"], None)

    def fail(self, input: str, reason: str, name: str = "") -> None:
        """A path or a scan, then with its `name`, cannot be segmented; what an earlier call made of it is kept."""
        self.own["failed"].append({"input": input, "reason": reason})
        if self._claims.pop(name, None):
            self._failed[name] = reason

    def write(self) -> None:
        """Write summary.json, summary.csv and lesions.csv: this call's lines and those of all others."""
        with self._turn():
            self._write(self._read())

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Let one process at a time change the summary; where the disk has no locks, go on without."""
        self._output.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._output, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _read(self) -> dict[str, list[dict]]:
        path = self._output / "summary.json"
        content = read_json(path, _REMEDY, _SHAPE) if path.exists() else {}
        if content and not content.keys() & set(_LISTS):  # nnU-Net writes one of this name
            raise FileError(path, f"is no summary of ours, it holds {', '.join(list(content)[:3])}", _REMEDY)
        return {name: content.get(name) or [] for name in _LISTS}

    def _write(self, summary: dict[str, list[dict]]) -> None:
        lines = {case["case"]: case for case in summary["cases"]}
        for name in self._failed.keys() & lines.keys():
            warnings = [said for said in lines[name].get("warnings") or [] if not said.startswith(_AGAIN)]
            lines[name] = lines[name] | {"warnings": [*warnings, _AGAIN + self._failed[name]]}
        lines |= {case["case"]: case for case in self.own["cases"]}
        failed = [line for line in summary["failed"] if not self._is_ours(line["input"])] + self.own["failed"]
        unfinished = [case for case in summary["unfinished"] if case["case"] not in self._names]
        unfinished += self._claims.values()
        content = {"cases": list(lines.values()), "failed": failed} | ({"unfinished": unfinished} if unfinished else {})
        write_json(self._output / "summary.json", content)
        rows = [
            {name: value for name, value in case.items() if name not in _NOT_IN_CSV}
            | {"warnings": "; ".join(case.get("warnings") or [])}
            for case in lines.values()
        ]
        write_csv(self._output / "summary.csv", rows, ["case"])
        tables = {name: case["lesions"] for name, case in lines.items() if case.get("lesions") is not None}
        if tables:
            lesion_table.write_csv(self._output / "lesions.csv", tables)

    def _is_ours(self, input: str) -> bool:
        """Whether this call has looked at what an earlier one, or an earlier moment of this one, failed at."""
        place = os.path.abspath(input)
        given = any(place == path or place.startswith((f"{path}{os.sep}", f"{path}!")) for path in self._paths)
        return given or input in self._names or any(input == line["input"] for line in self.own["failed"])


class _Taken:
    """The names of lines, and of masks of ours; a user's own mask is no result of ours, and nobody's name."""

    def __init__(self, output: pathlib.Path, names: set[str]):
        self._output, self.names = output, names

    def __contains__(self, name: str) -> bool:
        mask = result_file(self._output, name)
        return name in self.names or (mask.exists() and is_prediction(mask))


def _key(case: dict) -> tuple:
    images = case.get("images") or [case.get("input", "")]
    return tuple(images), tuple(case.get("channels") or ()), tuple(case.get("series") or ())
