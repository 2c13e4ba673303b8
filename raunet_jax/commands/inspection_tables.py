"""The facts that inspection gathers, as tables on standard output."""

import sys

from flax.traverse_util import flatten_dict
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 160  # rich would fold every table to 80 columns where standard output is no terminal


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)


def _print_table(title: str, columns: tuple[str, ...], rows: list[tuple]) -> None:
    """A table whose first column is words and whose others are numbers."""
    print(title)  # not as the table's own title, which is folded to the width of the table
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell if isinstance(cell, str) else _number(cell)) for cell in row))
    _console().print(table)


def _number(value) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def show_recipe(facts: dict) -> None:
    """Print what `network_facts.inspect_recipe` returns, network by network."""
    for network in facts.get("stages", {facts.get("stage"): facts}).values():
        rows = [
            (row["name"], "×".join(map(str, row["shape"])), row["dtype"], row["count"]) for row in network["parameters"]
        ]
        _print_table(f"{network['name']} (stage {network['stage']})", ("parameter", "shape", "dtype", "count"), rows)
        activations = network["activation_megabytes"]
        batch_gigabytes = (network["state_megabytes"] + network["batch_size"] * activations) / 1e3
        print(f"total parameters: {network['total_parameters']:,}")
        print(f"batch statistics: {network['batch_statistics']:,}")
        print(f"patch (x, y, z): {' × '.join(map(str, network['patch_size']))} voxels")
        print(f"forward: {network['forward_gflop']:.4g} GFLOP a patch")
        print(f"training memory: about {activations:.4g} MB a patch, {batch_gigabytes:.3g} GB a batch of", end=" ")
        print(f"{network['batch_size']} with parameters, gradients and Adam's moments")
        if "cost" in network:
            _show_cost(network["cost"])
        print()


def _show_cost(cost: dict) -> None:
    """Print what `program_cost.recipe_cost` returns."""
    programs = [(name, cost[name]) for name in ("train_step", "forward")]
    columns = ("", *(f"{name.replace('_', ' ')}, batch {program['patches']}" for name, program in programs))
    rows = [
        (head, *(program[field] for _, program in programs))
        for head, field in (
            ("kernels", "kernels"),
            ("of these large transposes", "transposes"),
            ("GB that kernels touch", "gigabytes"),
            ("GFLOP of convolutions and products", "gflop"),
            ("GFLOP by XLA's count", "xla_gflop"),
            ("MB of temporaries", "temporary_megabytes"),
            ("MB of arguments", "argument_megabytes"),
        )
    ]
    title = f"compiled for {cost['platform']} ({cost['device']}), of each of {cost['devices']} device(s)"
    _print_table(title, columns, rows)


def show_run(facts: dict) -> None:
    """Print what `run_facts.inspect_run` returns."""
    print(f"{facts['workdir']}: {facts['name']}")
    print(f"total parameters: {facts['total_parameters']:,}")
    if not facts["folds"]:
        print("no fold has been started")
    for name, fold in facts["folds"].items():
        print()
        _show_fold(name, fold)
    if facts["scores"]:
        _print_table("scores.json", ("score", "value"), list(flatten_dict(facts["scores"], sep=".").items()))
    _print_table(
        "recipe",
        ("field", "value"),
        [(name, str(value)) for name, value in flatten_dict(facts["recipe"], sep=".").items()],
    )


def _show_fold(name: str, fold: dict) -> None:
    columns = ("epoch", "step", "loss", "validation_dice", "learning_rate", "patches_per_second", "seconds")
    rows = [tuple(row.get(column) for column in columns) for row in fold["metrics"]]
    heads = tuple(column.replace("_", " ") for column in columns)
    if rows:
        _print_table(f"{name}: scores by step", heads, rows)
    else:
        print(f"{name}: no epoch has been finished")
    if fold["error"]:
        print(f"{name}: {fold['error']}")
    if fold["step"] is None:
        print(f"{name}: no checkpoint{'' if fold['error'] else ' yet'}")
        return
    norms = list(fold["module_norms"].items()) + [("all", fold["parameter_norm"])]
    _print_table(f"{name}: Euclidean norm of the parameters at step {fold['step']:,}", ("module", "norm"), norms)
    print(f"{name}: newest checkpoint at step {fold['step']:,}, best at step {fold['best_step']:,}")
    print(f"{name}: parameters sha256 {fold['parameters_sha256']}")
    for line in fold["recipe_differences"]:
        print(f"{name}: recipe of the run, of the checkpoint: {line}")
    for array, count in fold["non_finite"].items():
        print(f"{name}: NOT FINITE: {count:,} values of {array}")
    if not fold["non_finite"]:
        print(f"{name}: all values are finite")


def show_comparison(facts: dict) -> None:
    """Print what `run_facts.compare` returns."""
    print(f"here: {facts['here']}\nthere: {facts['there']}")
    for title, part in (("recipe", facts["recipe"]), ("scores.json", facts["scores"])):
        if part:
            rows = [(name, *map(_number, pair)) for name, pair in part.items()]
            _print_table(f"{title}: what differs", ("", "here", "there"), rows)
        else:
            print(f"{title}: no difference")
    for place in ("here", "there"):
        if facts[f"only_{place}"]:
            print(f"only {place}: {', '.join(facts[f'only_{place}'])}")
    for name, fold in facts["folds"].items():
        print()
        pairs = [
            (row.replace("_", " "), *fold[row]) for row in ("step", "loss", "validation_dice", "parameters_sha256")
        ]
        _print_table(name, ("", "here", "there"), pairs)
        if fold["error"]:
            print(f"{name}: {fold['error']}")
        if fold["identical"] is None:
            print(f"{name}: no checkpoint in both to compare")
        elif fold["identical"]:
            print(f"{name}: the training states are identical, bit for bit")
        else:
            statistics = fold["batch_statistics"]
            names = sorted(fold["modules"].keys() | statistics.keys())
            rows = [(module, *(part.get(module, "") for part in (fold["modules"], statistics))) for module in names]
            columns = ("module", "parameters", "batch statistics")
            _print_table(f"{name}: relative difference (– where there is none to take)", columns, rows)
