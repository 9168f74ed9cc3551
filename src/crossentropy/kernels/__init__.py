"""Who computes: the primitives of the canonical form (``row_loss``)."""
