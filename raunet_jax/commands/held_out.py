"""Which cases a run's models have not seen, and which of its models is to segment each."""

import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from data_prep.cases import find_cases
from data_prep.fingerprints import fingerprints
from data_prep.layouts import Case
from raunet_jax import recipe, tasks
from raunet_jax.errors import UserError
from raunet_jax.names import natural
from raunet_jax.run_folder import TEST, VALIDATION, Parts, RunFolder, fold_part

log = logging.getLogger("raunet_jax")


class Group(NamedTuple):
    """Held-out cases of one model set."""

    fold: int | None  # whose model segments them; None: all folds together
    cases: tuple[Case, ...]


class HeldOut(NamedTuple):
    groups: list[Group]
    contents: Mapping[str, str | None]  # hash of what each case holds, by name
    leaks: set[str]  # names of cases that the run trained on under another name
    failed: list[str]  # a sentence for each held-out case that is not there as it was
    external: bool  # the cases are of another data set than the run's


def held_out(config: ConfigDict, workdir: pathlib.Path) -> HeldOut:
    """Who is to segment which cases.

    With test cases these, by all folds together; without, each case of a trained fold by the one model that never saw
    it. When `config` names another data set, all its cases by all folds together, but for scans that the run trained on
    under another name: `config.data.on_leak` excludes or marks them.

    Raises:
        FileNotFoundError: no data, or no split.json.
        ValueError: no case is left to evaluate on, a stage has trained on cases that another holds out, or `config`
            reads other channels or labels than the run was trained with.
    """
    folders = RunFolder(workdir).stages(config)
    splits = {name: folder.read_split() for name, folder in folders.items()}
    for name, stage in recipe.stages_of(config).items():
        _check_reading(stage, folders[name].load_recipe())
    last = recipe.last_stage(config)
    cases = {case.name: case for case in find_cases(last)}
    contents = {name: found.content for name, found in fingerprints(list(cases.values()), last).items()}
    trained = {name: content for split in splits.values() for part in split.values() for name, content in part.items()}
    if not any(name in trained and trained[name] == content for name, content in contents.items()):
        return _external(cases, contents, splits, last)

    for name in sorted(cases.keys() - trained.keys(), key=natural):
        log.warning(f"{name} is left out: it is not among the cases that this run was trained with")
    groups, failed = [], []
    for fold, names in _groups(last, splits[last.stage]):
        _check_unseen(fold, names, splits)
        problems = {name: _problem(name, contents, trained) for name in names}
        failed += [f"{name}: {problem}" for name, problem in problems.items() if problem]
        there = tuple(cases[name] for name, problem in problems.items() if not problem)
        groups += [Group(fold, there)] if there else []
    return HeldOut(groups, contents, set(), failed, external=False)


def _problem(name: str, contents: Mapping[str, str | None], trained: Mapping[str, str | None]) -> str:
    """Why a held-out case cannot be evaluated on; "" where it can."""
    if name not in contents:
        return "this run holds it out, and it is no longer there"
    if contents[name] != trained[name]:
        return "another scan has this name than when the run was trained; put that one back"
    return ""


def _external(
    cases: dict[str, Case], contents: Mapping[str, str | None], splits: Mapping[str, Parts], config: ConfigDict
) -> HeldOut:
    """`held_out` for a data set that is not the run's own."""
    on_leak = config.data.on_leak
    if on_leak not in ("exclude", "warn"):
        raise UserError(f"config.data.on_leak is {on_leak!r}; choose exclude or warn")
    seen = contents_of(part for split in splits.values() for name, part in split.items() if name != TEST)
    leaks = {name for name, content in contents.items() if content in seen}
    for name in sorted(leaks, key=natural):
        log.warning(f"{name} is a scan that this run has trained on; config.data.on_leak={on_leak}")
    kept = tuple(case for name, case in cases.items() if on_leak == "warn" or name not in leaks)
    if not kept:
        raise UserError("the run has trained on every case of this data set; choose another config.data.root")
    return HeldOut([Group(None, kept)], contents, leaks, [], external=True)


def contents_of(parts: Iterable[Mapping[str, str | None]]) -> set[str]:
    """The known content hashes in some parts of a split."""
    return {content for part in parts for content in part.values()} - {None}


def _groups(last: ConfigDict, split: Parts) -> list[tuple[int | None, list[str]]]:
    """(fold, names of the cases that its model has not seen)."""
    if split[TEST]:
        return [(None, list(split[TEST]))]
    if tasks.stage_of(last.stage).single_model:
        return [(None, list(split[VALIDATION]))]
    return [(fold, list(split.get(fold_part(fold), ()))) for fold in last.folds]


def _check_unseen(fold: int | None, names: Sequence[str], splits: Mapping[str, Parts]) -> None:
    """Raise ValueError when a stage of several models has trained on a case that this fold's model is to segment."""
    for stage, split in splits.items():
        if tasks.stage_of(stage).single_model:  # what it saw is marked
            continue
        unseen = split[TEST] if fold is None else split[TEST] | split.get(fold_part(fold), {})
        seen = sorted(set(names) - set(unseen), key=natural)
        if seen:
            raise UserError(
                f"stage {stage} was trained on {', '.join(seen)}, which the last stage holds out: all stages must "
                "share config.seed, data.folds and data.test_cases; train one of them anew"
            )


def _check_reading(config: ConfigDict, trained: ConfigDict) -> None:
    """Raise ValueError where `config` would read scans otherwise than a stage was trained on."""
    for field in ("modalities", "foreground"):
        ours, theirs = tuple(config.data[field]), tuple(trained.data[field])
        if ours != theirs:
            raise UserError(
                f"config.data.{field} is {ours}, and stage {config.stage} was trained with {theirs}; use that"
            )
