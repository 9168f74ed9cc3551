"""How fast the losses are, beside other libraries and the machine's own bandwidth: ``python -m benchmarks``."""
