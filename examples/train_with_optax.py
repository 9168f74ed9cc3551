"""Train a small network on scikit-learn's digits with JAX, optax and our loss, and judge it on rows it has not seen.

    python examples/train_with_optax.py

The loss is exact to the last digits in float32, so it goes on falling where 1 - p rounds to 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import crossentropy as xe

HIDDEN, STEPS = 64, 150


def logits_of(weights, pixels):
    hidden = jax.nn.relu(pixels @ weights["hidden"] + weights["hidden_bias"])
    return hidden @ weights["output"] + weights["output_bias"]


def loss_of(weights, pixels, digits):
    return xe.cross_entropy(logits_of(weights, pixels), digits, label_smoothing=0.01)


def train(pixels, digits, steps=STEPS):
    """The trained weights and the loss of every step."""
    rng = np.random.default_rng(0)
    weights = {
        "hidden": jnp.asarray(rng.normal(0, pixels.shape[1] ** -0.5, (pixels.shape[1], HIDDEN)), jnp.float32),
        "hidden_bias": jnp.zeros(HIDDEN),
        "output": jnp.asarray(rng.normal(0, HIDDEN**-0.5, (HIDDEN, 10)), jnp.float32),
        "output_bias": jnp.zeros(10),
    }
    optimizer = optax.adam(0.01)

    def step(carry, _):
        weights, state = carry
        loss, gradient = jax.value_and_grad(loss_of)(weights, pixels, digits)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(weights, updates), state), loss

    run = jax.jit(lambda weights: jax.lax.scan(step, (weights, optimizer.init(weights)), length=steps))
    (weights, _), losses = run(weights)
    return weights, losses


def main():
    """Prints and returns the first and last loss of training, and the held-out rows' loss and accuracy."""
    pixels, digits = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    train_pixels, test_pixels, train_digits, test_digits = train_test_split(pixels, digits, random_state=0)
    weights, losses = train(jnp.asarray(train_pixels), jnp.asarray(train_digits))
    held_out = logits_of(weights, jnp.asarray(test_pixels))
    loss = float(xe.cross_entropy(held_out, jnp.asarray(test_digits)))
    accuracy = float(jnp.mean(jnp.argmax(held_out, axis=-1) == jnp.asarray(test_digits)))
    print(f"training loss {losses[0]:.3f} -> {losses[-1]:.3f} nats with smoothing 0.01")
    print(f"held-out rows: loss {loss:.3f} nats, {xe.perplexity(loss):.3f} classes; {accuracy:.1%} right")
    return float(losses[0]), float(losses[-1]), loss, accuracy


if __name__ == "__main__":
    main()
