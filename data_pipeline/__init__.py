"""Read medical images, augment and preprocess them with DALI, and batch them for training.

The names below load their module on first use, so `import data_pipeline` needs neither DALI nor torch. Nor do the first
rows of the table of files in this folder's README, which all packages share.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from data_pipeline import startup

if TYPE_CHECKING:
    from data_pipeline.image_header import ImageError as ImageError
    from data_pipeline.loader import Batch as Batch
    from data_pipeline.loader import TrainingLoader as TrainingLoader
    from data_pipeline.records import DataError as DataError
    from data_pipeline.records import Dataset as Dataset
    from data_pipeline.records import Record as Record
    from data_pipeline.records import Split as Split
    from data_pipeline.scan import BadSample as BadSample
    from data_pipeline.scan import drop_bad as drop_bad
    from data_pipeline.scan import open_splits as open_splits
    from data_pipeline.scan import open_usable as open_usable
    from data_pipeline.scan import scan_samples as scan_samples
    from data_pipeline.serving import Preprocessor as Preprocessor
    from data_pipeline.serving import serialize_serving as serialize_serving
    from data_pipeline.sources import SOURCES as SOURCES
    from data_pipeline.sources import open_source as open_source
    from data_pipeline.spec import Preprocessing as Preprocessing

# Before the command's own module, whose imports take seconds.
if module := startup.command():
    startup.prepare(module)


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that offers names from other modules.

    Args:
        package: name of the package, for the message of the AttributeError.
        modules: full name of the module that defines each name.
    """

    def load(name: str) -> Any:
        # `hasattr` and `from package import name` expect an AttributeError for an unknown name.
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return load


_MODULES = {
    "BadSample": "data_pipeline.scan",
    "Batch": "data_pipeline.loader",
    "DataError": "data_pipeline.records",
    "Dataset": "data_pipeline.records",
    "ImageError": "data_pipeline.image_header",
    "Preprocessing": "data_pipeline.spec",
    "Preprocessor": "data_pipeline.serving",
    "Record": "data_pipeline.records",
    "SOURCES": "data_pipeline.sources",
    "Split": "data_pipeline.records",
    "TrainingLoader": "data_pipeline.loader",
    "drop_bad": "data_pipeline.scan",
    "open_source": "data_pipeline.sources",
    "open_splits": "data_pipeline.scan",
    "open_usable": "data_pipeline.scan",
    "scan_samples": "data_pipeline.scan",
    "serialize_serving": "data_pipeline.serving",
}
# Computed, so that the list cannot name what does not exist. Type checkers read the imports above instead.
__all__ = list(_MODULES)
__getattr__ = lazy_names(__name__, _MODULES)
