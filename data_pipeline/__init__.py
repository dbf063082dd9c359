"""Data sources and the DALI pipelines over one shared preprocessing graph.

The names below load their module on first use, so that `import data_pipeline` needs neither DALI nor torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.headers import ImageError as ImageError
    from data_pipeline.records import DataError as DataError
    from data_pipeline.records import Dataset as Dataset
    from data_pipeline.records import Record as Record
    from data_pipeline.records import Split as Split
    from data_pipeline.scan import BadSample as BadSample
    from data_pipeline.scan import drop_bad as drop_bad
    from data_pipeline.scan import open_usable as open_usable
    from data_pipeline.scan import scan_samples as scan_samples
    from data_pipeline.serving import Preprocessor as Preprocessor
    from data_pipeline.serving import serialize_serving as serialize_serving
    from data_pipeline.sources import SOURCES as SOURCES
    from data_pipeline.sources import open_source as open_source
    from data_pipeline.spec import Preprocessing as Preprocessing
    from data_pipeline.training import Batch as Batch
    from data_pipeline.training import TrainingLoader as TrainingLoader

_NAMES = {
    "headers": ("ImageError",),
    "spec": ("Preprocessing",),
    "records": ("DataError", "Dataset", "Record", "Split"),
    "scan": ("BadSample", "drop_bad", "open_usable", "scan_samples"),
    "serving": ("Preprocessor", "serialize_serving"),
    "sources": ("SOURCES", "open_source"),
    "training": ("Batch", "TrainingLoader"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
