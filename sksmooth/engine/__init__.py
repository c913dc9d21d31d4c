"""Trains nets: one, or a stack of many at once. Knows tensors and modules, and no estimator."""
