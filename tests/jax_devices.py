"""What test_jax.py runs in a process that has four devices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import fastmap as fm
import fastmap.jax

SIZE = 100_000  # several blocks, so that the engine's threads take part


@jax.jit
def many(x: jax.Array) -> jax.Array:
    """Independent native calls, which XLA may run at the same time."""
    parts = [fm.forward(x + i, "log") * fm.log_abs_det(x + i, "log") for i in range(24)]
    return sum(part[::-1] + part for part in parts)


optimizer = fastmap.jax.adam(0.1, map="softplus")
step = jax.jit(optimizer.step)


def threads() -> None:
    devices = jax.devices()
    assert len(devices) == 4
    x = [jax.device_put(jnp.linspace(1 + i, 2 + i, SIZE), devices[i % 4]) for i in range(8)]
    expected = [np.asarray(many(a)) for a in x]
    host = [np.asarray(a) for a in x]
    states = [optimizer.init(a) for a in x]
    moved = [np.asarray(step(a, s, a)[0]) for a, s in zip(x, states, strict=True)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            compiled = [pool.submit(many, a) for a in x]
            stepped = [pool.submit(step, a, s, a) for a, s in zip(x, states, strict=True)]
            eager = [pool.submit(fm.forward, a, "log") for a in host + x]
            for future, value in zip(compiled, expected, strict=True):
                np.testing.assert_array_equal(np.asarray(future.result()), value)
            for future, value in zip(stepped, moved, strict=True):
                np.testing.assert_array_equal(np.asarray(future.result()[0]), value)
            for future in eager:
                assert np.isfinite(future.result()).all()
    print("threads")


def shards() -> None:
    theta = np.linspace(0.1, 3, 64).reshape(16, 4).astype(np.float32)
    for kind in (AxisType.Explicit, AxisType.Auto):
        mesh = jax.make_mesh((4,), ("rows",), axis_types=(kind,))
        x = jax.device_put(theta, NamedSharding(mesh, P("rows")))
        mapped = jax.jit(
            jax.shard_map(lambda x: fm.forward(x, "log"), mesh=mesh, in_specs=P("rows"), out_specs=P("rows"))
        )
        assert mapped(x).sharding.is_equivalent_to(x.sharding, x.ndim)
        assert "all-gather" not in mapped.lower(x).compile().as_text()
        np.testing.assert_array_equal(np.asarray(mapped(x)), fm.forward(theta, "log"))

        @jax.jit
        @jax.grad
        def total(x: jax.Array, mesh: jax.sharding.Mesh = mesh) -> jax.Array:
            return jax.shard_map(
                lambda x: jax.lax.psum(fm.forward_and_log_det(x, "log")[1], "rows"),
                mesh=mesh,
                in_specs=P("rows"),
                out_specs=P(),
            )(x)

        np.testing.assert_allclose(np.asarray(total(x)), -1 / theta, rtol=1e-6)
        # Without shard_map the result is right, too: XLA may gather the parts first.
        np.testing.assert_array_equal(
            np.asarray(jax.jit(lambda x: fm.forward(x, "log"))(x)), fm.forward(theta, "log")
        )
    print("shards")
    with pytest.raises(ValueError, match=r"^theta: lies on 4 devices"):
        fm.forward(x, "log")
    print("refusal")


if __name__ == "__main__":
    threads()
    shards()
