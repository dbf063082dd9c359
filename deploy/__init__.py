"""Carry the network from a checkpoint to an answer: simplify, export, build, verify, serve and query.

`from deploy import build` builds engines from a program, as `python -m deploy.build_engine` does from a command line.
"""

import os
import sys
from typing import TYPE_CHECKING

from data_pipeline import lazy_names

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
__getattr__ = lazy_names(__name__, _MODULES)
