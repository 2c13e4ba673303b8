"""Scores of segmentations, as the LiTS and BraTS challenges define them.

The names below are loaded when they are first asked for: most of who imports one module needs no other.
"""

import importlib

_MODULES = {
    "RULES": "rules",
    "as_stored": "folders",
    "comparison_tables": "tables",
    "read_scores": "tables",
    "score_brain_case": "brats",
    "score_custom_case": "custom",
    "score_folders": "folders",
    "score_liver_case": "liver",
    "summarize_brain": "brats",
    "summarize_custom": "custom",
    "summarize_liver": "liver",
    "write_scores": "tables",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
