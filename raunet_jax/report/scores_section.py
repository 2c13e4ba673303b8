"""The part of a run's page that shows its scores beside published ones."""

from raunet_jax.report import curves, markup
from raunet_jax.report.cases import look_up
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.report.structures import scored_structures, shown_name
from raunet_jax.scores.tables import Comparison, comparison_tables, seen_before


def section(scores: dict | None) -> Html:
    """Notices, tiles, the Dice of every case and the tables of scores.json; None: the run has not been evaluated."""
    if scores is None:
        return markup.section(
            "Scores", tag("p", "No scores yet: this run has not been evaluated (--mode=evaluate)."), anchor="scores"
        )
    parts, shown = [], []
    for comparison in comparison_tables(scores):
        parts += [tag("h3", comparison.title), _comparison(comparison)]
        paper = next((row for row in comparison.published if row.paper), None)
        if paper and not comparison.external:
            pairs = zip(comparison.columns, comparison.ours[0].values, paper.values, strict=True)
            shown += [
                (f"{comparison.title}, {column}", number(ours), f"paper {number(theirs)}")
                for column, ours, theirs in pairs
            ][:2]
    if scores.get("detection"):
        found = scores["detection"]
        shown += [("Lesion recall", number(found["recall"]), "overlap > 0.5")]
        shown += [("Lesion precision", number(found["precision"]), "overlap > 0.5")]
        parts += [tag("h3", "Lesion detection and tumor burden"), _detection(scores)]
    dice = {
        shown_name(structure): [look_up(case, (structure, "dice")) for case in scores["cases"]]
        for structure in scored_structures(scores["cases"])
    }
    figures = [tag("h3", "Dice of every case")]
    figures.append(curves.both_themes(curves.score_distribution, "Dice of every case with median and quartiles", dice))
    notices = map(markup.notice, seen_before(scores))
    return tag("div", *notices, markup.tiles(shown), markup.section("Scores", *figures, *parts, anchor="scores"))


def _comparison(comparison: Comparison) -> Html:
    rows = [*comparison.ours, *comparison.published]
    marks = ["source" if row.statistic else "ours" for row in comparison.ours]
    marks += ["paper" if row.paper else "" for row in comparison.published]
    cells = [(row.statistic or row.label, *map(number, row.values), comparison.source_number(row)) for row in rows]
    sources = "; ".join(f"({index}) {source}" for index, source in enumerate(comparison.sources, 1))
    published = tag("p", f"Sources: {sources}.", class_="source") if sources else None
    table = markup.table(("", *comparison.columns, "source"), cells, marks)
    return markup.join([table, published, tag("p", comparison.note, class_="source")])


def _detection(scores: dict) -> Html:
    rows = []
    for group, title in (("detection", "lesion"), ("tumor_burden", "burden error, ")):
        for name, value in scores[group].items():
            label = f"{title} {name}".replace("_greater_zero", " (any overlap)").replace("_", " ")
            rows.append((label, number(value), number(look_up(scores, (f"{group}_corrected", name)))))
    return markup.table(("", "official (LiTS's program)", "corrected (without its quirks)"), rows)
