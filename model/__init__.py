"""Build ResFormer with a DFE decoder and a multi-scale classification head (arXiv 2412.00351)."""

from model.config import PRESETS, ModelConfig
from model.network import MultiTaskResFormer, Prediction, build_model

__all__ = ["PRESETS", "ModelConfig", "MultiTaskResFormer", "Prediction", "build_model"]
