"""`python -m cli`: the same as the `follows` command, whatever else on this machine is called that."""

from cli.main import main

if __name__ == "__main__":
    main()
