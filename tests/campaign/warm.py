"""What every child of a campaign has imported before it is forked; no backend of JAX is started here.

`python run.py` imports the same in some seconds. A child that is forked from a process that has done so begins at once,
and can be killed and limited as any other process.
"""

import array_record.python.array_record_module  # noqa: F401
import grain  # noqa: F401
import tensorflow_datasets  # noqa: F401

import run  # noqa: F401
from raunet_jax import commands
from raunet_jax.commands import network_facts, run_facts  # noqa: F401
from raunet_jax.report import comparison_page, page, prediction_page  # noqa: F401
from tests import exact_models  # noqa: F401
from tests.campaign import entry  # noqa: F401

for mode in commands.MODES:
    commands.load(mode)
