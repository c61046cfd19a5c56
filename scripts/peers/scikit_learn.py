#!/usr/bin/env python3
"""Holds permutation importance against scikit-learn: the same sweep, the same work, the same threads,
in turns.

Prints ratios of time, scikit-learn / ours, as min-median-max over the rounds: above 1 ours is faster.
One fit is 100 trees on all combinations; an importance is five times: a fifth held out, 100 trees
fitted to the rest, R² after 10 shuffles of each factor. With several threads scikit-learn runs with
its trees and with its shuffles in parallel, and the better of the two counts. The figures that both
come to stand below the ratios.

`--tables N` compares figures alone, on N tables that neither has seen: seeded levels, effects, interactions, noise and
gaps. A difference is told in standard errors, those of both over their seeds; where both are right, one in twenty is
beyond 2.31 (Student's t for two means of five). Of 16 tables of 32 to 689 rows four were refused, which scikit-learn
predicts with an R² of 0.52 at most; of the 45 importances of the others none was beyond, the mean difference was -0.013,
and the largest 0.29, in a table of 75 rows.

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
        importances=numpy.mean(decreases, axis=0), sds=numpy.std(decreases, axis=0, ddof=1),
    )


def unseen(seed):
    """Codes and a target of a table: two to six factors of two to eight levels, and up to a third of it missing."""
    random = numpy.random.default_rng(seed)
    sizes = random.integers(2, 9, random.integers(2, 7))
    while numpy.prod(sizes) > 1000 or numpy.prod(sizes) < 40:
        sizes = random.integers(2, 9, random.integers(2, 7))
    codes = numpy.array(list(itertools.product(*map(range, sizes))))
    codes = codes[random.random(len(codes)) > random.uniform(0, 0.35)]
    effects = [random.normal(0, random.choice([0, 0.1, 0.5, 1.5]), size) for size in sizes]
    target = sum(effect[codes[:, at]] for at, effect in enumerate(effects))
    if len(sizes) > 2:
        a, b = random.choice(len(sizes), 2, replace=False)
        target = target + random.normal(0, random.choice([0, 0.3]), (sizes[a], sizes[b]))[codes[:, a], codes[:, b]]
    target = numpy.exp(target + random.normal(0, random.choice([0.02, 0.1, 0.3]), len(codes)))
    # Levels are numbered by those that are there.
    codes = numpy.array([numpy.unique(column, return_inverse=True)[1] for column in codes.T]).T
    return codes, target


def compare_figures(arguments):
    """One line a table, and all differences together."""
    apart, errors, of_r2, refused = [], [], [], [0, 0]
    print("table  rows  factors  R² ours  R² theirs  largest difference  in standard errors")
    for seed in range(1, arguments.tables + 1):
        codes, target = unseen(seed)
        with tempfile.TemporaryDirectory() as folder:
            data = pathlib.Path(folder) / "table.json"
            data.write_text(json.dumps({"codes": codes.T.tolist(), "target": target.tolist()}))
            mine = ours(arguments, data, 1)
        peer = theirs(codes.astype(numpy.float32), target, 1, False)
        if mine["refused"]:
            # Below an R² of 0.5 nothing is shown.
            refused[int(peer["r2"] < 0.55)] += 1
            print(f"{seed:>5} {len(target):>5} {codes.shape[1]:>8}  refused: {mine['refused']}; scikit-learn's R² {peer['r2']:.2f}")
            continue
        difference = numpy.array(mine["importances"]) - peer["importances"]
        error = numpy.sqrt((numpy.array(mine["sds"]) ** 2 + peer["sds"] ** 2) / SEEDS)
        apart.extend(difference)
        errors.extend(difference / numpy.maximum(error, 1e-4))
        of_r2.append(mine["r2"] - peer["r2"])
        at = abs(difference).argmax()
        print(f"{seed:>5} {len(target):>5} {codes.shape[1]:>8} {mine['r2']:>8.3f} {peer['r2']:>10.3f} {difference[at]:>19.4f}"
              f" {difference[at] / max(error[at], 1e-4):>19.2f}", flush=True)
    errors, apart = numpy.array(errors), numpy.array(apart)
    print(f"{len(apart)} importances of {arguments.tables - sum(refused)} tables: mean difference {apart.mean():.4f}, largest "
          f"{abs(apart).max():.4f}; {100 * (abs(errors) > 2.31).mean():.0f} % beyond 2.31 standard errors; R² {numpy.mean(of_r2):+.4f} "
          f"in the mean, {numpy.abs(of_r2).max():.4f} at most; {refused[1]} tables refused that scikit-learn has at 0.55 at most, "
          f"{refused[0]} others")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--example", default="target/release/examples/forest_speed")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefix", nargs="+", default=[], help="put before our command, such as taskset -c 0,1")
    parser.add_argument("--tables", type=int, default=0, help="compare figures on this number of unseen tables instead")
    arguments = parser.parse_args()
    if arguments.tables:
        compare_figures(arguments)
        return

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
