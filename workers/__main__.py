"""`python -m workers [rebuilds]`: what `follows worker` and `follows rebuilder` run."""

import sys

from workers.process import run_rebuilder, run_worker

if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["rebuilds"]):
        sys.exit("usage: python -m workers [rebuilds]")
    run_rebuilder() if sys.argv[1:] else run_worker()
