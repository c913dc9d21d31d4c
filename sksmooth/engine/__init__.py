"""What training needs that knows tensors and modules, and no estimator."""
