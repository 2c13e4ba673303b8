"""The suite and the processes that its tests start compute and speak as run.py does, keep compiled networks, and are
stricter than JAX: no array changes its dtype or gains an axis unless the code says so.
"""

import os

from raunet_jax import progress, startup

GUARDS = {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUMPY_RANK_PROMOTION": "raise"}

os.environ.update(GUARDS)  # read when JAX is imported, here and in every process that a test starts
startup.set_environment()
progress.log_to_stderr()
