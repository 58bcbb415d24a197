//! `cargo xtask bench`: runs the benchmarks of the crates and of the whole program.

mod results;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::cargo;
use results::{Results, Values};

struct Benchmark {
    name: &'static str,
    package: &'static str,
    /// The name of the benchmark in cargo.
    bench: &'static str,
}

const fn bench(name: &'static str, package: &'static str, bench: &'static str) -> Benchmark {
    Benchmark {
        name,
        package,
        bench,
    }
}

/// A benchmark of the whole program: a part of one benchmark program, which is called with the name of the
/// part.
const fn of_program(name: &'static str) -> Benchmark {
    bench(name, END_TO_END, "program")
}

const BENCHMARKS: &[Benchmark] = &[
    bench("store-group-commit", "mvcc-store", "group_commit"),
    bench(
        "planner-stateful-set",
        "controller-planners",
        "stateful_set",
    ),
    bench("stateful-sets", "cluster-simulation", "stateful_sets"),
    bench("api-writes", "kube-api-server", "writes"),
    of_program("startup-memory"),
    of_program("pods"),
    of_program("exec"),
    of_program("idle"),
    of_program("dns"),
    of_program("services"),
    of_program("failover"),
    of_program("servers"),
    of_program("volumes"),
    of_program("nodes"),
    of_program("node-loss"),
    of_program("replication"),
    of_program("volume-move"),
    of_program("csi"),
];

/// The names of all benchmarks.
pub fn names() -> impl Iterator<Item = &'static str> {
    BENCHMARKS.iter().map(|benchmark| benchmark.name)
}

/// The crate whose benchmarks run the release binary.
const END_TO_END: &str = "end-to-end";

/// Runs the benchmarks whose name contains `filter`.
pub fn run(root: &Path, filter: Option<&str>) -> Result<()> {
    let selected: Vec<&Benchmark> = BENCHMARKS
        .iter()
        .filter(|benchmark| filter.is_none_or(|filter| benchmark.name.contains(filter)))
        .collect();
    if selected.is_empty() {
        let names: Vec<&str> = names().collect();
        bail!("no benchmark matches; there are: {}", names.join(", "));
    }
    if selected
        .iter()
        .any(|benchmark| benchmark.package == END_TO_END)
    {
        cargo::run(root, &["build", "--release", "--package", "mainstay"])?;
    }
    let is_small = std::env::var_os("MAINSTAY_BENCH_SMALL").is_some();
    let mut results = Results::of_machine(root, is_small)?;
    for benchmark in selected {
        println!("xtask: {}", benchmark.name);
        measure(root, benchmark, &mut results)?;
    }
    results.save()?;
    println!("xtask: results in {}", results.file().display());
    Ok(())
}

/// Runs a benchmark; prints its lines, each with the ratios of its values to the previous ones.
fn measure(root: &Path, benchmark: &Benchmark, results: &mut Results) -> Result<()> {
    let Benchmark {
        name,
        package,
        bench,
    } = benchmark;
    let mut command = cargo::command(root);
    command.args(["bench", "--package", package, "--bench", bench]);
    if *package == END_TO_END {
        command.args(["--", name]);
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let output = child.stdout.take().context("no output of cargo")?;
    let mut values = Values::of(name);
    for line in BufReader::new(output).lines() {
        let line = line?;
        let ratios: Vec<String> = values
            .read(&line)
            .into_iter()
            .filter_map(|(key, value)| results.add(key, value))
            .map(|ratio| format!("{ratio:.2}"))
            .collect();
        match ratios.as_slice() {
            [] => println!("{line}"),
            ratios => println!("{line}  [of the last: {}]", ratios.join(", ")),
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("the benchmark {name} ended with {status}");
    }
    Ok(())
}
