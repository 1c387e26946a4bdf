"""`python -m starflow` is the command `starflow`."""

from starflow.cli.main import main

if __name__ == "__main__":
    main()
