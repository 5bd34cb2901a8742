"""`python -m isochrone` is the command line."""

from isochrone.control.cli import main

if __name__ == "__main__":
    main()
