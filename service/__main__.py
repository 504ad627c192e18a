"""`python -m service` is `secateur-serve`."""

from service.cli import main

main()
