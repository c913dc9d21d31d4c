"""Label smoothing for scikit-learn, with probabilities you can trust."""
