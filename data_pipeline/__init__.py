"""Data sources and the DALI pipelines over one shared preprocessing graph.

The names below load their module on first use, so that `import data_pipeline` needs neither DALI nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.preprocess import Preprocessing, preprocess
    from data_pipeline.records import DataError, Dataset, Record
    from data_pipeline.serving import ImageError, Preprocessor, serialize_serving
    from data_pipeline.sources import open_source
    from data_pipeline.training import Batch, TrainingLoader

_MODULE_OF = {
    "Batch": "training",
    "DataError": "records",
    "Dataset": "records",
    "ImageError": "serving",
    "Preprocessing": "preprocess",
    "Preprocessor": "serving",
    "Record": "records",
    "TrainingLoader": "training",
    "open_source": "sources",
    "preprocess": "preprocess",
    "serialize_serving": "serving",
}
__all__ = list(_MODULE_OF)  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
