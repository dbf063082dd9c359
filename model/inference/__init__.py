"""Make the deployed form of the network: everything folded that folds, weights held as the kernels load them."""

from model.inference.fold import for_inference

__all__ = ["for_inference"]
