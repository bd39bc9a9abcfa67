"""`python -m bench`."""

import sys

try:
    from bench.cli import main
except ModuleNotFoundError as lacking:
    if lacking.name is None or lacking.name.partition(".")[0] == "bench":
        raise
    sys.exit(
        f"{lacking.name} is not installed for {sys.executable}: `make bench` installs what the load tester "
        "needs into .venv, and so does `pip install -e '.[bench,standalone]'`"
    )

if __name__ == "__main__":
    main()
