"""Carry the network from a checkpoint to an answer: simplify, export, build, verify, serve and query.

`from deploy import build` builds engines from a program, as `python -m deploy.build_engine` does from a command line.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

try:
    from data_pipeline import lazy_names, startup
except ImportError as error:
    # Of a command: Python found a package of this name in the current folder. A program sees the error itself.
    if sys.argv[0] != "-m":
        raise
    sys.exit(f"error: {error}, which is not resformer-deploy's: rename it, or run from another folder")

if TYPE_CHECKING:
    from deploy.building import build as build
    from deploy.errors import BuildError as BuildError
    from deploy.report import Report as Report

# Here, because every import of these libraries comes after that of this package. OpenVINO reports each import and each
# conversion, and NNCF each quantisation, through a package that both can do without: None makes its import fail.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
# ONNX Runtime keeps an identity and a store of events in the home folder. It reads this once, at its own import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# The client lives in this package and runs on machines with neither torch nor DALI, so `import deploy` loads nothing.
_MODULES = {"build": "deploy.building", "BuildError": "deploy.errors", "Report": "deploy.report"}
__all__ = list(_MODULES)
_load = lazy_names(__name__, _MODULES)


def __getattr__(name: str) -> Any:
    # The build needs packages that the client does not, and a program's own folder comes before them.
    if name in _MODULES and (clash := startup.find_clash(startup.EVERYTHING)):
        raise ImportError(clash)
    return _load(name)
