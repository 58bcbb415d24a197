//! `cargo xtask bench`: runs the benchmarks of the crates and of the whole program.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cargo;

/// A benchmark.
struct Benchmark {
    /// Its name.
    name: &'static str,
    /// Its package.
    package: &'static str,
    /// Its target there.
    bench: &'static str,
}

const fn bench(name: &'static str, package: &'static str, bench: &'static str) -> Benchmark {
    Benchmark {
        name,
        package,
        bench,
    }
}

const BENCHMARKS: &[Benchmark] = &[
    bench("store-group-commit", "mvcc-store", "group_commit"),
    bench("planner-stateful-set", "planners", "stateful_set"),
    bench("stateful-sets", "simulation", "stateful_sets"),
    bench("api-writes", "api-server", "writes"),
    bench("startup-memory", END_TO_END, "whole_program"),
    bench("pods", END_TO_END, "pods"),
    bench("exec", END_TO_END, "exec"),
    bench("idle", END_TO_END, "idle"),
    bench("dns", END_TO_END, "dns"),
    bench("services", END_TO_END, "services"),
    bench("failover", END_TO_END, "failover"),
    bench("servers", END_TO_END, "servers"),
    bench("volumes", END_TO_END, "volumes"),
    bench("nodes", END_TO_END, "nodes"),
    bench("node-loss", END_TO_END, "node_loss"),
    bench("replication", END_TO_END, "replication"),
    bench("csi", END_TO_END, "csi"),
];

/// The crate whose benchmarks run the release binary.
const END_TO_END: &str = "end-to-end";

/// Runs the benchmarks whose name contains `filter`.
pub fn run(root: &Path, filter: Option<&str>) -> Result<()> {
    let wanted: Vec<&Benchmark> = BENCHMARKS
        .iter()
        .filter(|benchmark| filter.is_none_or(|filter| benchmark.name.contains(filter)))
        .collect();
    if wanted.is_empty() {
        let names: Vec<&str> = BENCHMARKS.iter().map(|benchmark| benchmark.name).collect();
        bail!("no benchmark matches; there are: {}", names.join(", "));
    }
    if wanted
        .iter()
        .any(|benchmark| benchmark.package == END_TO_END)
    {
        cargo::run(root, &["build", "--release", "--package", "mainstay"])?;
    }
    for benchmark in wanted {
        println!("xtask: {}", benchmark.name);
        let Benchmark { package, bench, .. } = benchmark;
        cargo::run(root, &["bench", "--package", package, "--bench", bench])?;
    }
    Ok(())
}
