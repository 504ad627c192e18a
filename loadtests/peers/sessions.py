"""How a tuned peer sets up ONNX Runtime: one thread per session, which does not spin while it waits."""

import onnxruntime


def session_options() -> onnxruntime.SessionOptions:
    """One thread, no spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
