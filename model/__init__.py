"""Build ResFormer with a DFE decoder and a multi-scale classification head (arXiv 2412.00351)."""

import sys
from typing import TYPE_CHECKING

try:
    from data_pipeline import lazy_names
except ImportError as error:
    # Of a command: Python found a package of this name in the current folder. A program sees the error itself.
    if sys.argv[0] != "-m":
        raise
    sys.exit(f"error: {error}, which is not resformer-deploy's: rename it, or run from another folder")

if TYPE_CHECKING:
    from model.config import PRESETS as PRESETS
    from model.config import ModelConfig as ModelConfig
    from model.network import MultiTaskResFormer as MultiTaskResFormer
    from model.network import Prediction as Prediction
    from model.network import build_model as build_model

# On first use, because a command must be ready for Ctrl-C before torch is imported.
_MODULES = {
    "ModelConfig": "model.config",
    "MultiTaskResFormer": "model.network",
    "PRESETS": "model.config",
    "Prediction": "model.network",
    "build_model": "model.network",
}
__all__ = list(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)
