"""The public API: each function takes what the caller has, calls one room and returns."""

from medldm.api.restoring import denoise, estimate_noise, inpaint, restore, super_resolve, write_report
from medldm.api.synthesizing import evaluate_synthetic, synthesize
from medldm.api.training import calibrate, distill, estimate_training, find_kinds, plan, train
from medldm.io import read, write
from medldm.model import load_model

__all__ = [
    "calibrate",
    "denoise",
    "distill",
    "estimate_noise",
    "estimate_training",
    "evaluate_synthetic",
    "find_kinds",
    "inpaint",
    "load_model",
    "plan",
    "read",
    "restore",
    "super_resolve",
    "synthesize",
    "train",
    "write",
    "write_report",
]
