"""Scores of segmentations, as the LiTS and BraTS challenges define them."""

from raunet_jax.scores.brats import score_brain_case, summarize_brain
from raunet_jax.scores.custom import score_custom_case, summarize_custom
from raunet_jax.scores.folders import as_stored, score_folders
from raunet_jax.scores.liver import score_liver_case, summarize_liver
from raunet_jax.scores.tables import comparison_tables, print_tables, write_scores

__all__ = [
    "as_stored",
    "comparison_tables",
    "print_tables",
    "score_brain_case",
    "score_custom_case",
    "score_folders",
    "score_liver_case",
    "summarize_brain",
    "summarize_custom",
    "summarize_liver",
    "write_scores",
]
