"""Measure what this project claims about speed and memory (see README.md for the figures)."""

# Importing it prepares for Ctrl-C, before the imports of a command take seconds.
from data_pipeline.startup import ROOT as ROOT

# Whatever the folder that pytest was started in: engines and generated images are kept for the next run.
OUTPUT = ROOT / "build" / "bench"
# The engine that the tables compare the others with. Here, so that the report needs no engine to be imported.
BASELINE = "plain-onnxruntime-fp32"
