"""What `raunet_jax.networks.program` tells of a compiled program."""

from raunet_jax.networks.program import consists_of

__all__ = ["consists_of"]
