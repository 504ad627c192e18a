"""Load tests of the service, and what it is measured against: black boxes over HTTP. Imports neither `service` nor `pruning`."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported; the service's own processes say so too
