"""What the service is measured against, as black boxes over HTTP. Imports neither `service` nor `pruning`."""
