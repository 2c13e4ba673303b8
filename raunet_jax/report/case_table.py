"""The part of a run's page that lists its cases: a row of scores each, and the same scores over its pictures."""

from raunet_jax.names import natural
from raunet_jax.report import markup
from raunet_jax.report.cases import look_up
from raunet_jax.report.markup import Html, number, tag
from raunet_jax.scores.rules import CaseColumns, case_columns_of


def columns_of(scores: dict | None) -> CaseColumns:
    """The columns of its rule that any case of a scores.json has a value for; none for a run without scores."""
    if scores is None:
        return {}
    return {
        heading: (keys, digits)
        for heading, (keys, digits) in case_columns_of(scores).items()
        if any(look_up(case, keys) is not None for case in scores["cases"])
    }


def section(records: list[dict], scores: dict | None, anchors: dict[str, str]) -> Html:
    """A sortable row a case, and above them what was warned of.

    Args:
        records: the CASE.json files of the evaluation.
        scores: scores.json, or None.
        anchors: case -> id of its article on the page.
    """
    scored = {case["case"]: case for case in scores["cases"]} if scores else {}
    known = {record["case"]: record for record in records}
    columns = columns_of(scores)
    rows = []
    for name in sorted(scored.keys() | known.keys(), key=natural):
        cells = [(tag("a", name, href=f"#{anchors[name]}") if name in anchors else name, name)]
        for keys, digits in columns.values():
            value = look_up(scored.get(name), keys)
            cells.append((number(value, digits), value))
        record = known.get(name, {})
        warnings = len(record.get("warnings") or [])
        cells += [(number(record.get("seconds"), 1), record.get("seconds")), (warnings or "", warnings)]
        rows.append(cells)
    notices = [
        markup.notice(tag("a", record["case"], href=f"#{anchors[record['case']]}"), f": {warning}")
        for record in records
        for warning in record.get("warnings") or []
    ]
    head = ("case", *columns, "seconds", "warnings")
    hint = tag("p", "Click a heading to sort by it, a case to see it.", class_="source")
    return markup.section("Cases", *notices, markup.table(head, rows, sortable=True), hint, anchor="cases")


def facts(record: dict, scored: dict | None, columns: CaseColumns) -> Html:
    """A case's scores, and the seconds that it and each stage took, in a line."""
    values = [(heading, look_up(scored, keys), digits) for heading, (keys, digits) in columns.items()]
    values.append(("seconds", record.get("seconds"), 1))
    stages = record.get("stages")
    if isinstance(stages, dict):
        values += [(f"{stage}, s", value, 1) for stage, value in stages.items() if isinstance(value, (int, float))]
    shown = [
        tag("span", f"{title} ", tag("b", number(value, digits)))
        for title, value, digits in values
        if value is not None
    ]
    return tag("p", *shown, class_="facts")
