"""A tree of arrays as one vector: what compiled programs are called with.

A network has hundreds of arrays, its training state thousands. Each that a program takes or gives costs the host some
microseconds a call, and each that a step changes costs a GPU a kernel; checkpoints and everything else keep the tree.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the leaves of a tree, in JAX's order, lie in a vector one after the other; hashable."""

    form: jax.tree_util.PyTreeDef
    shapes: tuple[tuple[int, ...], ...]

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

    vector: Array | np.ndarray
    layout: Layout = flax.struct.field(pytree_node=False)

    def unpack(self) -> Any:
        """The tree; of a NumPy vector its arrays are views. The gradient is one concatenation."""
        if not self.layout.shapes:
            parts = ()
        elif isinstance(self.vector, np.ndarray):
            parts = np.split(self.vector, np.cumsum(self.layout.sizes)[:-1])
        else:
            parts = jax.lax.split(self.vector, self.layout.sizes)
        shaped = (part.reshape(shape) for part, shape in zip(parts, self.layout.shapes, strict=True))
        return self.layout.form.unflatten(shaped)


def pack(tree: Any) -> Packed:
    """`tree`, all of whose leaves are float32, as one vector: of NumPy if they all are, else of JAX.

    Raises:
        ValueError: a leaf is of another type.
    """
    leaves, form = jax.tree.flatten(tree)
    if other := {str(leaf.dtype) for leaf in leaves} - {"float32"}:
        raise ValueError(f"only trees of float32 are packed, and this has {', '.join(sorted(other))}")
    of_numpy = all(isinstance(leaf, np.ndarray) for leaf in leaves)
    join = (np if of_numpy else jnp).concatenate
    flat = [leaf.ravel() for leaf in leaves]
    return Packed(join(flat or [np.zeros(0, np.float32)]), Layout(form, tuple(leaf.shape for leaf in leaves)))


def unpack_all(tree: Any) -> Any:
    """`tree` with every Packed in it unpacked."""

    def is_packed(node):
        return isinstance(node, Packed)

    return jax.tree.map(lambda node: node.unpack() if is_packed(node) else node, tree, is_leaf=is_packed)
