"""Logits spread over devices give the values and gradients of one device: four simulated ones on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")

# The number of devices is fixed when JAX starts, so this runs in a process of its own.
SCRIPT = """
import functools
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import crossentropy as xe
from crossentropy.libraries.jax import core

assert len(jax.devices()) == 4
rng = np.random.default_rng(0)
logits, labels = rng.normal(0, 3, (8, 12)).astype(np.float32), rng.integers(0, 12, 8)
labels[3] = -100
value, gradient = xe.cross_entropy_value_and_grad(logits, labels, label_smoothing=0.1)
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("rows", "classes"))

def check(found, shape=None):
    np.testing.assert_allclose(np.asarray(found[0]), value, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(found[1]), gradient, rtol=1e-5, atol=1e-8)

loss = functools.partial(xe.cross_entropy, label_smoothing=0.1)
for spec in (P("rows", None), P("rows", "classes"), P(None, "classes"), P(("rows", "classes"), None)):
    x = jax.device_put(logits, NamedSharding(mesh, spec))
    t = jax.device_put(labels, NamedSharding(mesh, P(spec[0])))
    compiled = jax.jit(jax.value_and_grad(loss)).lower(x, t).compile()
    found = compiled(x, t)
    check(found)
    assert "crossentropy_rows" not in compiled.as_text()  # the partitioner would gather the arguments of a call
    assert found[1].sharding.is_equivalent_to(x.sharding, 2), (spec, found[1].sharding)

@functools.partial(jax.shard_map, mesh=mesh, in_specs=(P("rows"), P("rows")), out_specs=P())
def total(x, t):
    return jax.lax.psum(xe.cross_entropy(x, t, label_smoothing=0.1, reduction="sum"), "rows") / 7

check(jax.jit(jax.value_and_grad(total))(jnp.asarray(logits), jnp.asarray(labels)))
unchecked = jax.shard_map(total.__wrapped__, mesh=mesh, in_specs=(P("rows"), P("rows")), out_specs=P(), check_vma=False)
compiled = jax.jit(unchecked).lower(jnp.asarray(logits), jnp.asarray(labels)).compile()
np.testing.assert_allclose(np.asarray(compiled(jnp.asarray(logits), jnp.asarray(labels))), value, rtol=1e-6)
assert ("crossentropy_rows" in compiled.as_text()) == (core.kernel_name() != "xla")
binary = jax.device_put(logits, NamedSharding(mesh, P("rows", "classes")))
each = jax.jit(lambda x: xe.binary_cross_entropy(x, jnp.ones_like(x), reduction="none"))(binary)
expected = xe.binary_cross_entropy(logits, np.ones_like(logits), reduction="none")
np.testing.assert_allclose(np.asarray(each), expected, rtol=1e-6)
print("same")
"""


def test_sharded_inputs():
    flags = "--xla_cpu_experimental_ynn_fusion_type= --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags}
    source = str(Path(__file__).parents[2] / "src")
    environment["PYTHONPATH"] = os.pathsep.join([source, environment.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["same"], done.stderr[-3000:]
