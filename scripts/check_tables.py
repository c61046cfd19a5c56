#!/usr/bin/env python3
"""Whether a sweep's Parquet tables open where people open them: DuckDB, pandas and polars, with types, nulls and
units. A package that is not installed is skipped with a word.

    python scripts/check_tables.py SWEEP_DIR
"""

import csv
import importlib
import sys
from pathlib import Path

# Column: its unit, and its type as DuckDB, pandas and polars call it.
COLUMNS = {
    "model": (None, "VARCHAR", ("object", "str", "string"), "String"),
    "batch_size": ("sequences", "BIGINT", ("int64",), "Int64"),
    "mean_ttlt_ms": ("ms", "DOUBLE", ("float64",), "Float64"),
    "output_throughput": ("tokens/s", "DOUBLE", ("float64",), "Float64"),
    "valid": (None, "BOOLEAN", ("bool", "object", "boolean"), "Boolean"),
    "started_at": ("UTC", "TIMESTAMP WITH TIME ZONE", ("datetime64[ms, UTC]",), "Datetime(time_unit='ms', time_zone='UTC')"),
    "prompt_seed": (None, "UBIGINT", ("uint64", "float64"), "UInt64"),
}


def same(what, found, expected):
    if found != expected:
        sys.exit(f"check_tables: {what}: {found!r} instead of {expected!r}")


def check_duckdb(duckdb, path):
    table = duckdb.sql(f"SELECT * FROM '{path}'")
    types = dict(zip(table.columns, map(str, table.types)))
    for name, (_, kind, _, _) in COLUMNS.items():
        same(f"DuckDB, {name}", types[name], kind)
    query = f"SELECT count(*), count(mean_ttlt_ms), avg(mean_ttlt_ms) FROM '{path}'"
    return duckdb.sql(query).fetchall()[0]


def check_pandas(pandas, path):
    table = pandas.read_parquet(path)
    for name, (_, _, kinds, _) in COLUMNS.items():
        if str(table[name].dtype) not in kinds:
            sys.exit(f"check_tables: pandas, {name}: {table[name].dtype} is none of {kinds}")
    return len(table), int(table.mean_ttlt_ms.count()), table.mean_ttlt_ms.mean()


def check_polars(polars, path):
    table = polars.read_parquet(path)
    for name, (_, _, _, kind) in COLUMNS.items():
        same(f"polars, {name}", str(table.schema[name]), kind)
    return len(table), table["mean_ttlt_ms"].count(), table["mean_ttlt_ms"].mean()


def check_units(parquet, path):
    for table in path.parent.glob("*.parquet"):
        for field in parquet.read_schema(table):
            metadata = field.metadata or {}
            if b"description" not in metadata:
                sys.exit(f"check_tables: {table.name}, {field.name}: no description in the metadata")
    schema = parquet.read_schema(path)
    for name, (unit, *_) in COLUMNS.items():
        found = schema.field(name).metadata.get(b"unit")
        same(f"unit of {name}", found and found.decode(), unit)


def main():
    folder = Path(sys.argv[1])
    path = folder / "trials.parquet"
    with open(folder / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = [float(row["mean_ttlt_ms"]) for row in rows if row["mean_ttlt_ms"]]
    expected = sum(measured) / len(measured)
    for name, check in [("duckdb", check_duckdb), ("pandas", check_pandas), ("polars", check_polars)]:
        try:
            package = importlib.import_module(name)
        except ImportError:
            print(f"check_tables: {name} is not installed: skipped")
            continue
        count, filled, mean = check(package, path)
        same(f"{name}, rows", count, len(rows))
        same(f"{name}, values of mean_ttlt_ms", filled, len(measured))
        if abs(mean / expected - 1) > 1e-12:
            sys.exit(f"check_tables: {name}: mean of mean_ttlt_ms {mean} instead of {expected}")
        print(f"check_tables: {name} {package.__version__}: {count} rows, typed as they should be")
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        print("check_tables: pyarrow is not installed: units are not checked")
        return
    check_units(parquet, path)
    print("check_tables: units and descriptions stand in the metadata")


if __name__ == "__main__":
    main()
