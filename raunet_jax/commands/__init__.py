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


def load(mode: str) -> Callable:
    """The function of `mode`, whose module and all that it imports are loaded now."""
    module, function = MODES[mode].split(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)
