"""What is wrong with a recipe's data source and patch sets, said in words before hours of training find out."""

import contextlib
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from ml_collections import ConfigDict

from data_prep import layouts, patch_dataset
from data_prep.cases import find_cases, scan_cases
from data_prep.description import read_description
from data_prep.faults import Finding, check_case
from data_prep.fingerprints import SMALL, files_of, fingerprints
from data_prep.finished_set import damaged
from data_prep.layouts import Case
from data_prep.planning import plan
from data_prep.stage_check import lacking
from data_prep.workers import workers
from raunet_jax.errors import UserError
from raunet_jax.failures import explain
from raunet_jax.files import look_below
from raunet_jax.imaging.checks import UNUSABLE
from raunet_jax.names import natural
from raunet_jax.progress import progress
from raunet_jax.recipe import stages_of

LITS_NAME = re.compile(r"(?:volume-|liver_)(\d+)", re.IGNORECASE)
IRCADB_IN_LITS = range(28, 49)


class Verified(NamedTuple):
    """What was looked at and what was found."""

    name: str  # of the recipe
    source: str
    root: str
    cases: tuple[str, ...]  # names, of the incomplete ones too
    findings: tuple[Finding, ...]  # in natural order of the cases, then those of no single case

    @property
    def unusable(self) -> set[str]:
        return {finding.case for finding in self.findings if finding.fatal} & set(self.cases)


def verify(config: ConfigDict) -> Verified:
    """Read every case of the recipe's source, and every shard of the patch sets that it has.

    A cascade's cases are checked for its last stage, its patch sets for all. A bad case is a finding and never stops
    the others. Nothing below `config.data.root` is changed.

    Args:
        config: the recipe of a stage or of a cascade.

    Raises:
        DataNotFound: there is not a single case.
        ValueError: a source that does not exist or a dataset.json that cannot be used.
    """
    config, unplanned = _planned(config)
    stages = list(stages_of(config).values())
    last = stages[-1]
    cases, incomplete = scan_cases(last)
    if not cases and not incomplete:
        find_cases(last)  # raises DataNotFound with its advice
    if last.data.cases > 0:  # as find_cases limits them, after those without a mask are left out
        kept = [case for case in cases if case.mask is not None][: last.data.cases]
        cases = [case for case in cases if case in kept or case.mask is None]
    findings = [Finding(item.name, "files", item.reason, item.remedy, UNUSABLE) for item in incomplete]
    with progress("verifying", len(cases)) as bar:
        for case, found in _check_all(cases, last):
            findings += found
            bar.advance(note=case.name)
    unusable = {finding.case for finding in findings if finding.fatal}
    usable = [case for case in cases if case.name not in unusable]
    of_cases, of_all = _check_contents(usable, last)
    of_all += [] if unplanned else check_stages(stages, usable)
    findings = sorted(findings + of_cases, key=lambda finding: natural(finding.case)) + of_all + unplanned
    with progress("verifying patch sets", len(stages)) as bar:
        for stage in stages:
            findings += check_patches(stage)
            bar.advance(note=stage.name)
    names = tuple(case.name for case in cases) + tuple(item.name for item in incomplete)
    return Verified(config.name, last.data.source, last.data.root, names, tuple(findings))


def check_stages(stages: Sequence[ConfigDict], cases: Sequence[Case]) -> list[Finding]:
    """Which stages cannot be trained on `cases`, too few or without what is to be found."""
    findings = []
    for stage in stages if cases else ():
        try:
            reason, remedy = lacking(stage, cases, fingerprints(cases, stage)), "add cases that have some"
        except UserError as error:
            reason, _, remedy = str(error).rpartition("; ")
        if reason:
            remedy = f"nothing unless you train on these cases: {remedy}"
            findings.append(Finding(f"stage {stage.stage}", "training", reason, remedy))
    return findings


def check_patches(stage: ConfigDict) -> list[Finding]:
    """Which shards of the patch sets of this stage and patch size, whatever cases they are of, are not as written."""
    findings = []
    for place in patch_dataset.finished(stage):
        try:
            shards = damaged(place)
            value = f"{place}: changed or missing: {', '.join(shards)}" if shards else ""
        except (OSError, ValueError, KeyError) as error:
            value = f"{place}: its manifest cannot be read ({error})"
        if value:
            remedy = f"delete {place}: it is built again"
            findings.append(Finding(f"patch set of {stage.name}", "patch set", value, remedy, UNUSABLE))
    return findings


def _planned(config: ConfigDict) -> tuple[ConfigDict, list[Finding]]:
    """The recipe as it is trained; where it cannot be planned, with what it needs for its files to be read, and why."""
    try:
        return plan(config), []
    except (OSError, UserError) as error:
        reason = " ".join(explain(error).split())
    config = config.copy_and_resolve_references()
    files = look_below(pathlib.Path(config.data.root).expanduser()).files
    described = [path for path in files if path.name == "dataset.json"]
    if described and not config.data.modalities:
        with config.ignore_type():
            config.data.modalities = read_description(described[0]).modalities
    return config, [Finding("recipe", "plan", reason, "correct this first: no training can begin", UNUSABLE)]


def _check_all(cases: Sequence[Case], config: ConfigDict) -> Iterator[tuple[Case, list[Finding]]]:
    recipe = config.to_dict()
    if sum(map(_bytes, cases)) < SMALL:
        yield from ((case, check_case(case, recipe)) for case in cases)
        return
    with workers(config, len(cases)) as pool:
        running = [pool.submit(check_case, case, recipe) for case in cases]
        for case, future in zip(cases, running, strict=True):
            try:
                yield case, future.result()
            except BrokenProcessPool:  # whose fault it was is not known: each that was not finished is tried alone
                yield case, _check_alone(case, config)


def _check_alone(case: Case, config: ConfigDict) -> list[Finding]:
    try:
        with workers(config, 1) as pool:
            return pool.submit(check_case, case, config.to_dict()).result()
    except BrokenProcessPool:
        value = f"{case.images[0]}: the process that read it was killed, most likely for lack of memory"
        return [Finding(case.name, "image", value, "free memory, or crop the scan", UNUSABLE)]


def _bytes(case: Case) -> int:
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in files_of(case))
    return 0


def _check_contents(cases: Sequence[Case], config: ConfigDict) -> tuple[list[Finding], list[Finding]]:
    """Scans that are there twice; and whether 3DIRCADb, which is to be external, is among those of LiTS."""
    external: list[Case] = []
    if config.data.source in ("lits", "decathlon"):
        with contextlib.suppress(UserError):  # two copies of one of its patients: not this recipe's cases
            external, _ = layouts.scan("ircadb", pathlib.Path(config.data.root).expanduser(), ("ct",))
    try:
        contents = {name: found.content for name, found in fingerprints([*cases, *external], config).items()}
    except (OSError, UserError) as error:
        remedy = "free memory, or read fewer at a time (--config.data.workers=1)"
        return [], [
            Finding("all", "copies", f"scans that are there twice were not looked for: {explain(error)}", remedy)
        ]
    findings, first = [], {}
    for case in cases:
        original = first.setdefault(contents[case.name], case) if contents[case.name] else case
        if original is not case:
            value = f"{case.images[0]} is the same scan as {original.images[0]} of {original.name}"
            remedy = "nothing: the two never fall into different folds; move one away for it to count once"
            findings.append(Finding(case.name, "copy", value, remedy))
    return findings, _check_external(cases, external, contents, config)


def _check_external(
    cases: Sequence[Case], external: Sequence[Case], contents: Mapping[str, str | None], config: ConfigDict
) -> list[Finding]:
    if config.data.source not in ("lits", "decathlon"):
        return []
    patients = {contents[case.name]: case.images[0] for case in external if contents[case.name]}
    same = {case.name: patients[contents[case.name]] for case in cases if contents[case.name] in patients}
    numbers = {case.name: int(match[1]) for case in cases if (match := LITS_NAME.fullmatch(case.name))}
    named = [name for name, number in numbers.items() if number in IRCADB_IN_LITS]
    values = []
    if named:
        values.append(
            f"{config.data.root}: {len(named)} cases, {named[0]} to {named[-1]}, bear the numbers of LiTS's volumes 28 "
            "to 48, which but for one are the patients of 3DIRCADb"
        )
    if same:
        values.append(f"by content {', '.join(f'{name} is {patient}' for name, patient in same.items())}")
    done = {"exclude": "leaves out", "warn": "marks"}.get(config.data.on_leak, "should leave out or mark")
    remedy = (
        "nothing unless you test on 3DIRCADb, which is then not external (nor is it in the paper): evaluate "
        f"{done} the scans that a run trained on (config.data.on_leak={config.data.on_leak}); move these away to train "
        "without them"
    )
    return [Finding("3DIRCADb", "leak", "; ".join(values), remedy)] if values else []
