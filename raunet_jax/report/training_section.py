"""The part of a run's page that shows how its networks were trained."""

from ml_collections import ConfigDict

from raunet_jax import recipe
from raunet_jax.report import curves, markup
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.run_folder import FoldFolder, RunFolder

_HEAD = (
    "",
    "epochs",
    "steps",
    "last loss",
    "best validation Dice",
    "at epoch",
    "learning rate",
    "patches/s",
    "hours",
)


def section(run: RunFolder, config: ConfigDict) -> Html:
    """Curves and a row a fold, of the folds that have finished an epoch.

    Args:
        config: the run's recipe, of a stage or a cascade; only which stages it has is read.

    Raises:
        ValueError: a metrics.jsonl is damaged.
    """
    stages = {}
    for stage, folder in run.stages(config).items():
        metrics = {fold.number: _read_metrics(fold) for fold in folder.folds()}
        metrics = {number: rows for number, rows in metrics.items() if rows}
        if metrics:
            stages[stage if recipe.is_cascade(config) else ""] = metrics
    if not stages:
        return markup.section("Training", tag("p", "No epoch has been finished yet."), anchor="training")
    figure = curves.both_themes(curves.training_curves, "Loss and validation Dice by epoch", stages)
    words = tag("p", "Dotted lines: the learning rate was lowered.", class_="source")
    rows = [
        _row(f"{stage} fold {fold}".strip(), metrics)
        for stage, folds in stages.items()
        for fold, metrics in folds.items()
    ]
    return markup.section("Training", figure, words, markup.table(_HEAD, rows), anchor="training")


def _row(name: str, metrics: list[dict]) -> tuple[str, ...]:
    measured = [(row["validation_dice"], row["epoch"]) for row in metrics if row.get("validation_dice") is not None]
    best, epoch = max(measured, default=(None, None))
    last = metrics[-1]
    hours = (last.get("seconds") or 0) / 3600  # counted from the run's first start
    speed = number(last.get("patches_per_second"), 1)
    cells = (number(last["epoch"]), number(last["step"]), number(last.get("loss")), number(best), number(epoch))
    return (name, *cells, f"{last['learning_rate'] or 0:.1e}", speed, number(hours, 2))


def _read_metrics(fold: FoldFolder) -> list[dict]:
    """Rows of a fold's metrics.jsonl; a last line that a kill cut short is left out."""
    rows, wrong = fold.read_metrics()
    if len(wrong) > 1 or (wrong and len(rows) + 1 not in wrong):
        raise next(iter(wrong.values()))
    return rows
