//! The project's chores: `cargo xtask test` runs everything that must hold, `cargo xtask tidy` the architecture checks
//! alone, `cargo xtask setup` installs what the end-to-end tests need, `cargo xtask tables` writes the tables of
//! published facts, `cargo xtask protocols` the code of published protocols, `cargo xtask simulate` runs simulated
//! worlds, `cargo xtask model-check` explores small worlds, `cargo xtask fuzz` feeds decoders with mutated inputs,
//! `cargo xtask virtual-machine-test` runs the tests of containers on another kernel, `cargo xtask bench` measures.

mod bench;
mod busybox;
mod cargo;
mod computing;
mod deny;
mod engines;
mod fuzz;
mod licences;
mod model_check;
mod protocols;
mod setup;
mod simulate;
mod steps;
mod tables;
mod test_programs;
mod tidy;
mod virtual_machine;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use engines::Engine;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Chores of the mainstay project")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Runs every check and test: format, lints, tidy, unit, property, model, end to end
    Test {
        /// Leave out the tests that need root, kubectl, a registry and Debian packages
        #[arg(long)]
        without_end_to_end: bool,
        /// Store of the servers of the end-to-end tests
        #[arg(long, value_enum, default_value_t = Engine::Embedded, conflicts_with = "without_end_to_end")]
        store: Engine,
    },
    /// Checks the architecture's invariants and the house rules
    Tidy,
    /// Installs what the end-to-end tests need, where it is missing
    Setup,
    /// Writes the tables of published facts from their sources, or says what differs
    Tables(tables::Options),
    /// Checks licences, sources and duplicates of all packages with cargo-deny
    Deny(deny::Deny),
    /// Writes the licences of all libraries in the program to the file that the program prints
    Licences,
    /// Writes the code of the gRPC services from their published files
    Protocols,
    /// Simulates the control plane with nodes, users and faults; each failing seed repeats exactly
    Simulate(simulate::Simulate),
    /// Explores every interleaving of small worlds with the StatefulSet planner
    ModelCheck(model_check::ModelCheck),
    /// Feeds decoders with mutations of valid inputs; each finding repeats exactly
    Fuzz(fuzz::Fuzz),
    /// Runs the tests of containers in a virtual machine that has control groups of version 2 alone
    VirtualMachineTest(virtual_machine::VirtualMachine),
    /// Measures speed and size; prints medians and ratios
    Bench {
        /// Only the benchmarks whose name contains this
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let root = workspace_root();
    match arguments.chore {
        Chore::Test {
            store: Engine::Etcd,
            ..
        } => steps::test_on_etcd(&root),
        Chore::Test {
            without_end_to_end, ..
        } => steps::test(&root, without_end_to_end),
        Chore::Tidy => tidy::run(&root),
        Chore::Setup => setup::run(&root),
        Chore::Tables(options) => tables::run(&root, &options),
        Chore::Deny(options) => deny::run(&root, &options),
        Chore::Licences => licences::write(&root),
        Chore::Protocols => protocols::write(&root),
        Chore::Simulate(options) => simulate::run(&root, &options),
        Chore::ModelCheck(options) => model_check::run(&root, &options),
        Chore::Fuzz(options) => fuzz::run(&root, &options),
        Chore::VirtualMachineTest(options) => virtual_machine::run(&root, &options),
        Chore::Bench { filter } => bench::run(&root, filter.as_deref()),
    }
}

/// The checkout from which this program was built.
fn workspace_root() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package
        .ancestors()
        .nth(2)
        .map(PathBuf::from)
        .unwrap_or(package)
}
