"""A tree of arrays as one vector: what compiled programs are called with.

A network has hundreds of arrays, its training state thousands. Each that a program takes or gives costs the host some
microseconds a call, and each that a step changes costs a GPU a kernel; checkpoints and everything else keep the tree.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

GROUP = 80  # arrays that are joined at once; XLA computes what is joined beside it only where these are few


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the leaves of a tree, in JAX's order, lie in a vector one after the other; hashable.

    Attributes:
        form, shapes: of the tree.
        features_first: kernels of convolutions lie as cuDNN takes them and gives their gradients, (o, [z,] y, x, i),
            so that no step transposes them.
    """

    form: jax.tree_util.PyTreeDef
    shapes: tuple[tuple[int, ...], ...]
    features_first: bool = False

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(math.prod(shape) for shape in self.shapes)


@flax.struct.dataclass
class Packed:
    """A tree as one vector, itself a pytree with that vector as its only leaf, so that Optax treats it as one array.

    Attributes:
        vector: (n,) float32, of JAX or NumPy.
        layout: of the tree.
    """

    vector: Any
    layout: Layout = flax.struct.field(pytree_node=False)

    def unpack(self) -> Any:
        """The tree; of a NumPy vector its arrays are views. The gradient is one concatenation."""
        if not self.layout.shapes:
            parts = ()
        elif isinstance(self.vector, np.ndarray):
            parts = np.split(self.vector, np.cumsum(self.layout.sizes)[:-1])
        else:
            parts = _split(self.vector, self.layout.sizes)
        leaves = []
        for part, shape in zip(parts, self.layout.shapes, strict=True):
            moved = self.layout.features_first and _has_window(shape)
            leaves.append(_last_axis_last(part.reshape(shape[-1], *shape[:-1])) if moved else part.reshape(shape))
        return self.layout.form.unflatten(leaves)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _split(vector: Array, sizes: tuple[int, ...]) -> list[Array]:
    """The parts of `vector`; their gradients are put together by `_join`."""
    return jax.lax.split(vector, sizes)


def _split_forward(vector, sizes):
    return _split(vector, sizes), None


def _split_backward(sizes, _, gradients):
    return (_join(gradients),)


_split.defvjp(_split_forward, _split_backward)


def _join(parts: Sequence[ArrayLike]) -> Array:
    """All as one vector."""
    groups = [jnp.concatenate(parts[first : first + GROUP]) for first in range(0, len(parts), GROUP)]
    return jnp.concatenate(jax.lax.optimization_barrier(groups))


def _has_window(shape: tuple[int, ...]) -> bool:
    """Whether it is that of the kernel of a convolution that is no matrix product."""
    return math.prod(shape[:-2]) > 1


def _last_axis_last(kernel):
    return kernel.transpose(*range(1, kernel.ndim), 0)


def _last_axis_first(kernel):
    return kernel.transpose(kernel.ndim - 1, *range(kernel.ndim - 1))


def pack(tree: Any, features_first: bool = False) -> Packed:
    """`tree`, all of whose leaves are float32, as one vector: of NumPy if they all are, else of JAX; see Layout.

    Raises:
        ValueError: a leaf is of another type.
    """
    leaves, form = jax.tree.flatten(tree)
    if other := {str(leaf.dtype) for leaf in leaves} - {"float32"}:
        raise ValueError(f"only trees of float32 are packed, and this has {', '.join(sorted(other))}")
    of_numpy = all(isinstance(leaf, np.ndarray) for leaf in leaves)
    join = np.concatenate if of_numpy else _join
    shapes = tuple(leaf.shape for leaf in leaves)
    moved = [_last_axis_first(leaf) if features_first and _has_window(leaf.shape) else leaf for leaf in leaves]
    vector = join([leaf.ravel() for leaf in moved] or [np.zeros(0, np.float32)])
    return Packed(vector, Layout(form, shapes, features_first))


def unpack_all(tree: Any) -> Any:
    """`tree` with every Packed in it unpacked."""

    def is_packed(node):
        return isinstance(node, Packed)

    return jax.tree.map(lambda node: node.unpack() if is_packed(node) else node, tree, is_leaf=is_packed)
