"""`python -m physflow` is the command `physflow`."""

from physflow.cli import main

if __name__ == "__main__":
    main()
