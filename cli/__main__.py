"""`python -m cli`: the `follows` command, also where another program of that name is installed."""

from cli.main import main

if __name__ == "__main__":
    main()
