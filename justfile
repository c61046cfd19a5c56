# The usual commands; `just` lists them. Features are those of .ci/run, so that nothing is built twice.
workspace := "--workspace --features inferbench-operator/otlp"

[private]
default:
    @just --list

# Everything that a change has to pass
ci:
    .ci/run

# All tests, or those whose names contain FILTER
test FILTER="":
    cargo test {{workspace}} -- {{FILTER}}

# Format, and let the compiler and clippy look at all of it
check:
    cargo fmt --all
    cargo clippy {{workspace}} --all-targets -- -D warnings

# Renew what is generated: the CRD and its copy in the chart, schemas, columns, golden files
generate:
    cargo run {{workspace}} --bin crdgen
    INFERBENCH_UPDATE=1 INSTA_UPDATE=always cargo test {{workspace}}
    scripts/check_chart --update

# The documentation site, in target/site
docs:
    scripts/install-test-tools
    NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict
    .venv/bin/python scripts/check_site.py

# Run the sweep of the README
quickstart:
    cargo run --release -- run examples/quickstart.yaml

# The engine against this machine's ceilings
speed:
    cargo run --release -p inferbench-engine --example speed
