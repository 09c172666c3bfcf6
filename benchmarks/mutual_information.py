"""Time and memory of gaussian_mutual_information against the number of data N.

    python benchmarks/mutual_information.py            # N = 25k ... 200k, 2,048 latents
    python benchmarks/mutual_information.py --quick    # 128 latents

Every row runs in a process of its own. Memory is the growth of the resident set from before the
input is made to the highest point, over the size of the input (loc and scale): 1 would be the
input alone.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from pyro_corex.information import (
    gaussian_mutual_information,
    gaussian_mutual_information_estimate,
)

SIZES = (25_000, 50_000, 100_000, 200_000)


def resident_bytes() -> int:
    """Highest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def measure(n: int, m: int, stderr: bool, seed: int = 0) -> dict[str, float]:
    """Seconds, CPU seconds and relative peak memory of one run on random encoders."""
    before = resident_bytes()
    generator = torch.Generator().manual_seed(seed)
    loc = torch.empty(n, m).normal_(generator=generator)
    scale = torch.empty(n, m).log_normal_(-1.5, 0.5, generator=generator)
    size = loc.nbytes + scale.nbytes
    wall, cpu = time.perf_counter(), time.process_time()
    if stderr:
        gaussian_mutual_information_estimate(loc, scale)
    else:
        gaussian_mutual_information(loc, scale)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall, "cpu": cpu, "memory": (resident_bytes() - before) / size, "size": size}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of data N")
    parser.add_argument("--latents", type=int, default=2048, help="number of latents m")
    parser.add_argument("--quick", action="store_true", help="128 latents")
    parser.add_argument("--stderr", action="store_true", help="with standard errors")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    m = 128 if args.quick else args.latents
    if args.one:
        print(json.dumps(measure(args.sizes[0], m, args.stderr)))
        return
    print(f"m = {m} latents, float32, {torch.get_num_threads()} threads")
    print(
        f"{'N':>8} {'input GB':>9} {'seconds':>8} {'CPU s':>7} {'us / N':>8} {'peak / input':>13}"
    )
    for n in args.sizes:
        command = [sys.executable, __file__, "--one", "--sizes", str(n), "--latents", str(m)]
        command += ["--stderr"] * args.stderr
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(output)
        print(
            f"{n:>8} {row['size'] / 1e9:>9.2f} {row['wall']:>8.2f} {row['cpu']:>7.2f} "
            f"{1e6 * row['wall'] / n:>8.2f} {row['memory']:>13.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
