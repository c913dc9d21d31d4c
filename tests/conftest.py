"""Settings that all tests share."""

import matplotlib
import torch
from hypothesis import settings

matplotlib.use("Agg")
torch.set_num_threads(1)  # so that parallel test processes do not fight for the cores
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")
