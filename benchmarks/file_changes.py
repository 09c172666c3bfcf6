"""How often a call goes from one file to another while a small program is evaluated.

A reader who follows the code step by step turns to another file as often.  Counted are calls whose
file is another than the caller's, both in one folder: ``pyro_corex/objective`` for the loss of
``CorExELBO``, ``pyro/infer`` for that of Pyro's ``TraceMeanField_ELBO``.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import torch

import pyro_corex.objective

X = torch.zeros(10, 2)


def model(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))


def file_changes(run: Callable[[], Any], folder: Path) -> Counter[tuple[str, str]]:
    """Caller's and called file -> calls, of a run that has run before."""
    found: Counter[tuple[str, str]] = Counter()

    def look(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or frame.f_back is None:
            return
        here, there = (Path(f.f_code.co_filename) for f in (frame, frame.f_back))
        if here != there and folder in here.parents and folder in there.parents:
            found[there.name, here.name] += 1

    run()  # what is found out once is not counted
    sys.setprofile(look)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found


def count() -> dict[str, Counter[tuple[str, str]]]:
    """The file changes of both objectives."""
    ours, theirs = pyro_corex.CorExELBO(), pyro.infer.TraceMeanField_ELBO()
    return {
        "CorExELBO": file_changes(
            lambda: ours.loss(model, guide, X), Path(pyro_corex.objective.__file__).parent
        ),
        "TraceMeanField_ELBO": file_changes(
            lambda: theirs.loss(model, guide, X), Path(pyro.infer.__file__).parent
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", action="store_true", help="list the files of each change")
    options = parser.parse_args()
    for name, found in count().items():
        print(f"{name}: {sum(found.values())} changes of file")
        if options.files:
            for (caller, called), times in found.most_common():
                print(f"  {times:3d}  {caller} -> {called}")


if __name__ == "__main__":
    main()
