//! `cargo xtask bench`: runs the benchmarks of the crates and of the whole program.

use std::path::Path;

use anyhow::{Result, bail};

use crate::steps::cargo;

/// A benchmark: its name and the cargo arguments that run it.
type Benchmark = (&'static str, &'static [&'static str]);

const BENCHMARKS: &[Benchmark] = &[
    (
        "store-group-commit",
        &[
            "bench",
            "--package",
            "mvcc-store",
            "--bench",
            "group_commit",
        ],
    ),
    (
        "planner-stateful-set",
        &["bench", "--package", "planners", "--bench", "stateful_set"],
    ),
    (
        "stateful-sets",
        &[
            "bench",
            "--package",
            "simulation",
            "--bench",
            "stateful_sets",
        ],
    ),
    (
        "api-writes",
        &["bench", "--package", "api-server", "--bench", "writes"],
    ),
    (
        "startup-memory-pods",
        &[
            "bench",
            "--package",
            "end-to-end",
            "--bench",
            "whole_program",
        ],
    ),
    (
        "volumes",
        &["bench", "--package", "end-to-end", "--bench", "volumes"],
    ),
];

/// Runs the benchmarks whose name contains `filter`.
pub fn run(root: &Path, filter: Option<&str>) -> Result<()> {
    let wanted: Vec<&Benchmark> = BENCHMARKS
        .iter()
        .filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter)))
        .collect();
    if wanted.is_empty() {
        let names: Vec<&str> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
        bail!("no benchmark matches; there are: {}", names.join(", "));
    }
    if wanted
        .iter()
        .any(|(_, arguments)| arguments.contains(&"end-to-end"))
    {
        cargo(root, &["build", "--release", "--package", "mainstay"])?;
    }
    for (name, arguments) in wanted {
        println!("xtask: {name}");
        cargo(root, arguments)?;
    }
    Ok(())
}
