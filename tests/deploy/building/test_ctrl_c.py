"""Test Ctrl-C after engines have been opened and closed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as ops

COMMAND = """
import signal, sys
from pathlib import Path
from deploy.network import Network

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
first, second = (Network(Path(sys.argv[1]), "openvino f32", 1) for _ in range(2))
del first
del second
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("stopped")
"""


def test_it_still_stops_python(tmp_path: Path) -> None:
    """Interrupt a process of its own with `faulthandler`, whose signal stack OpenVINO exchanges."""
    source = ops.parameter([1, 3], np.float32)
    openvino.save_model(openvino.Model([ops.relu(source)], [source]), tmp_path / "relu.xml")
    command = [sys.executable, "-X", "faulthandler", "-c", COMMAND, str(tmp_path / "relu.xml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
