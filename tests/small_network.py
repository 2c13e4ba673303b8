"""A network of two layers in place of RAUNet, whose hundreds of arrays take Orbax seconds to save and restore."""

from flax import linen as nn
from ml_collections import ConfigDict

from raunet_jax.networks.blocks import Settings
from raunet_jax.networks.layers import Conv
from raunet_jax.training import fold_run


class Small(nn.Module):
    """Stands for RAUNet where only the loop matters."""

    settings: Settings

    @nn.compact
    def __call__(self, image, train=False):
        x = self.settings.norm_relu("norm")(Conv(4, 3, before_norm=True, name="conv")(image), train)
        return Conv(1, 1, name="logits")(x)


def make_small_network(config: ConfigDict, axis_name: str | None) -> Small:
    """In place of `make_network`."""
    return Small(Settings(axis_name=axis_name))


def use_small_network(patch):
    """By `patch.setattr`, for as long as it lasts."""
    patch.setattr(fold_run, "make_network", make_small_network)
