"""Whether there is enough to train each stage of a recipe on, asked before hours of training find out."""

from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from data_prep.cases import join_copies, scan_cases, split_cases
from data_prep.fingerprints import Fingerprint, fingerprints
from data_prep.layouts import Case
from raunet_jax import tasks
from raunet_jax.errors import UserError
from raunet_jax.recipe import stages_of


def untrainable(config: ConfigDict) -> dict[str, str]:
    """Which stages of a recipe have nothing to be trained on, and why; every scan and mask is read for it, once.

    Raises:
        UserError: the cases are too few for the test cases and folds of a stage.
    """
    found = {}
    for name, stage in stages_of(config).items():
        cases = [case for case in scan_cases(stage)[0] if case.mask is not None]
        cases = cases[: stage.data.cases] if stage.data.cases > 0 else cases
        reason = lacking(stage, cases, fingerprints(cases, stage)) if cases else ""  # find_cases says what is missing
        if reason:
            found[name] = reason
    return found


def lacking(stage: ConfigDict, cases: Sequence[Case], prints: Mapping[str, Fingerprint]) -> str:
    """Why a stage cannot be trained on `cases`, whose Fingerprints are `prints`: no mask has what it is to find; or "".

    Masks that cannot be read count as holding nothing, but nothing is said of a fold that has no other.

    Raises:
        UserError: the patients are too few.
    """
    contents = {case.name: prints[case.name].content for case in cases}
    try:
        _, parts = split_cases(join_copies(cases, contents, quiet=True), stage)
    except UserError as error:
        raise UserError(f"stage {stage.stage}: {error}") from error
    row, empty = tasks.stage_of(stage.stage), []
    for fold in (0,) if row.single_model else stage.folds:
        trained = (
            parts[0] if row.single_model else [case for part in (*parts[:fold], *parts[fold + 1 :]) for case in part]
        )
        masks = [prints[case.name].labels for case in trained]
        if any(labels is not None for labels in masks) and not any(_holds(stage, labels or ()) for labels in masks):
            empty.append(fold)
    if not empty:
        return ""
    of_folds = "" if len(empty) == len(tuple(stage.folds)) else f" for fold {', '.join(map(str, empty))}"
    return (
        f"stage {stage.stage} has nothing to be trained on{of_folds}: of the cases to train on, no mask that can be "
        f"read holds {_sought(stage)}"
    )


def _holds(stage: ConfigDict, labels: Sequence[int]) -> bool:
    if tasks.task_of(stage.stage).merged and stage.data.foreground:
        return not set(labels).isdisjoint(stage.data.foreground)
    return any(label >= tasks.stage_of(stage.stage).foreground for label in labels)


def _sought(stage: ConfigDict) -> str:
    if tasks.task_of(stage.stage).merged:
        chosen = tuple(stage.data.foreground)
        return f"one of config.data.foreground={chosen}" if chosen else "a label above 0"
    row = tasks.stage_of(stage.stage)
    return f"{row.structure} (label {row.foreground})"
