"""`python -m pruning` is `secateur-prune`."""

from pruning.cli import main

main()
