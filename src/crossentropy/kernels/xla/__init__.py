"""XLA: ``jax.numpy`` with the digits that float32 needs, and the loss of plain labels in as few loops as it allows."""
