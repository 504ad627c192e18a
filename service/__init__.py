"""Serves artifacts. ONNX Runtime reports its use to its makers unless a variable of the environment says no: it says no here."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported, which nothing above this package does
