#!/usr/bin/env python3
"""Holds permutation importance against scikit-learn: the same sweep, the same work, the same threads,
in turns.

Prints ratios of time, scikit-learn / ours, as min-median-max over the rounds: above 1 ours is faster.
One fit is 100 trees on all combinations; an importance is five times: a fifth held out, 100 trees
fitted to the rest, R² after 10 shuffles of each factor. With several threads scikit-learn runs with
its trees and with its shuffles in parallel, and the better of the two counts. The figures that both
come to stand below the ratios.

    cargo build --release -p inferbench-results --example forest_speed
    pip install -r scripts/fixtures/statistics-requirements.txt
    scripts/peers/scikit_learn.py
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import joblib
import numpy
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import train_test_split

FACTORS = {
    "batch size": [1, 2, 4, 8, 16, 32, 64],
    "input length": [16, 32, 64, 128, 256, 512],
    "output length": [16, 32, 64, 128, 256, 512],
    "GPUs": [1, 2, 4, 8],
    "model": [7, 13],
}
SEEDS, TREES, SHUFFLES = 5, 100, 10


def sweep():
    """Codes of the study's 2,016 combinations and a throughput for each."""
    random = numpy.random.default_rng(1)
    codes = numpy.array(list(itertools.product(*(range(len(levels)) for levels in FACTORS.values()))))
    batch, length, output, gpus, billions = (
        numpy.array(levels, float)[codes[:, at]] for at, levels in enumerate(FACTORS.values())
    )
    step = 2 * billions / gpus**0.8 + 0.05 * batch * billions / gpus + 1.5 * numpy.log2(gpus)
    ttlt = 5 + 0.03 * length * batch * billions / gpus + output * step
    return codes, 1000 * batch * output / ttlt * numpy.exp(random.normal(0, 0.05, len(codes)))


def ours(arguments, data, threads):
    """What the example prints of one run."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    command = [*arguments.prefix, arguments.example, data, "1"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{arguments.example} exited {result.returncode}:\n{result.stderr}")
    times = json.loads(result.stdout)
    if times["threads"] != threads:
        sys.exit(f"the forest used {times['threads']} threads, not {threads}")
    return times


def theirs(codes, target, threads, shuffles_in_parallel):
    """The same of scikit-learn: seconds of a fit and of an importance, and the importances."""
    trees, shuffles = (1, threads) if shuffles_in_parallel else (threads, 1)
    start = time.perf_counter()
    RandomForestRegressor(TREES, n_jobs=threads, random_state=0).fit(codes, target)
    fit = time.perf_counter() - start

    r2, decreases = [], []
    start = time.perf_counter()
    for seed in range(SEEDS):
        x_fit, x_out, y_fit, y_out = train_test_split(codes, target, test_size=0.2, random_state=seed)
        forest = RandomForestRegressor(TREES, n_jobs=threads, random_state=seed).fit(x_fit, y_fit)
        forest.n_jobs = trees
        r2.append(forest.score(x_out, y_out))
        # Threads: processes cost more to start than they save here.
        with joblib.parallel_backend("threading"):
            decreases.append(permutation_importance(
                forest, x_out, y_out, scoring="r2", n_repeats=SHUFFLES, n_jobs=shuffles, random_state=seed,
            ).importances_mean)
    return dict(
        fit_s=fit, importance_s=time.perf_counter() - start, r2=numpy.mean(r2),
        importances=numpy.mean(decreases, axis=0),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--example", default="target/release/examples/forest_speed")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefix", nargs="+", default=[], help="put before our command, such as taskset -c 0,1")
    arguments = parser.parse_args()

    codes, target = sweep()
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "sweep.json"
        data.write_text(json.dumps({"codes": codes.T.tolist(), "target": target.tolist()}))
        # As scikit-learn has it inside.
        codes = codes.astype(numpy.float32)
        print(f"{len(target)} combinations, {arguments.rounds} rounds; scikit-learn / ours, above 1 ours is faster")
        print("threads  what              min  median     max")
        for threads in arguments.threads:
            variants = (False, True) if threads > 1 else (False,)
            # Variant -> what -> one ratio a round.
            ratios = {variant: {"fit_s": [], "importance_s": []} for variant in variants}
            for _ in range(arguments.rounds):
                for variant in variants:
                    # A pair at a time, so that a change in the machine's speed touches both.
                    mine = ours(arguments, data, threads)
                    peer = theirs(codes, target, threads, variant)
                    for what, values in ratios[variant].items():
                        values.append(peer[what] / mine[what])
            for what, name in [("fit_s", "fit"), ("importance_s", "fit and shuffle")]:
                # The variant that is best for the peer.
                values = min((each[what] for each in ratios.values()), key=statistics.median)
                print(f"{threads:>7}  {name:<15} {min(values):>5.1f} {statistics.median(values):>7.1f} {max(values):>7.1f}",
                      flush=True)
    for name, result in [("ours", mine), ("scikit-learn", peer)]:
        figures = zip(FACTORS, result["importances"])
        print(f"{name}: R² {result['r2']:.4f};", ", ".join(f"{factor} {value:.3f}" for factor, value in figures))


if __name__ == "__main__":
    main()
