"""`python -m loadtests` is `secateur-loadtest`."""

from loadtests.cli import main

if __name__ == "__main__":
    main(prog_name="secateur-loadtest")
