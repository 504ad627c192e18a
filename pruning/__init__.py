"""Makes artifacts. What `service` says to the runtimes before they are imported holds here too."""

import service  # noqa: F401
