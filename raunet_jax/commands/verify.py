"""Checks every file of a recipe's data source, and the patch sets that it has."""

from data_prep.verify import main
from raunet_jax.commands.request import Request


def run(request: Request) -> int:
    return main(request.recipe, request.json)
