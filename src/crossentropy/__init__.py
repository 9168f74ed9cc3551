"""Cross-entropy, exact and fast: losses and derivatives for training, an honest report for evaluation."""
