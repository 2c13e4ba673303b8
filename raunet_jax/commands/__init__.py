"""What `run.py --mode=…` does: a module a mode, imported when that mode is asked for."""

import importlib
from collections.abc import Callable

MODES = {  # mode -> "module:function" of this package; the function takes a Request and returns the exit status
    "train": "train:run",
    "verify": "verify:run",
    "prepare": "prepare:run",
    "evaluate": "evaluate:run",
    "predict": "predict:run",
    "score": "score:run",
    "inspect": "inspect:run",
    "report": "report:run",
}
LISTING = "series_table:run"  # in place of any mode, with --list


def load(mode: str, listing: bool = False) -> Callable:
    """The function of `mode`, or that of `listing`; its module and all that it imports are loaded now."""
    module, function = (LISTING if listing else MODES[mode]).split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)
