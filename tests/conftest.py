"""The suite and the processes that its tests start compute and speak as run.py does, and keep compiled networks.

But XLA turns the programs, whose operations and their order are run.py's, into machine code that it does not optimize:
most of the suite's time is compilation, which that halves. With XLA_FLAGS set, if only to nothing, as in
`XLA_FLAGS= python -m pytest`, the code is run.py's too.

Tests are stricter than JAX: no array gains an axis, changes its dtype or becomes NaN unseen.
"""

import contextlib
import os
import sys

import pytest

from raunet_jax import progress, startup

# Elsewhere NaN is a value: scores without a lesion have no answer, and a loss that is not finite is provoked.
FREE_OF_NAN = {
    *("test_blocks", "test_convolution", "test_folding", "test_layers", "test_lowering", "test_raunet"),
    *("test_losses", "test_augmentation", "test_windows"),
}
# Where the training loop runs, nothing goes to a device but by `device_put`. Elsewhere tests hand NumPy arrays to JAX.
FREE_OF_TRANSFERS = {"test_step", "test_training"}

# Read when JAX is imported, also in processes that a test starts.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # a GPU's TF32 misses tolerances of 1e-5; a CPU has none
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")
startup.set_environment()
progress.log_to_stderr()


@pytest.fixture(autouse=True)
def guards(request):
    jax, module = sys.modules.get("jax"), request.module.__name__
    with contextlib.ExitStack() as stack:
        if jax:
            stack.enter_context(jax.numpy_dtype_promotion("strict"))
        if jax and module in FREE_OF_NAN:
            stack.enter_context(jax.debug_nans(True))
        if jax and module in FREE_OF_TRANSFERS:
            stack.enter_context(jax.transfer_guard("disallow"))
        yield
