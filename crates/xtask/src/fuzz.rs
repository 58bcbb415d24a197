//! `cargo xtask fuzz`: feeds decoders with inputs that were made from good ones.

use std::path::Path;

use anyhow::Result;

use crate::steps::cargo;

/// What to run.
#[derive(clap::Args)]
pub struct Fuzz {
    /// The targets (all, if none is named)
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// What the inputs follow from; a new one each time unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Runs this one input, and prints it
    #[arg(long, requires = "seed")]
    iteration: Option<u64>,
    /// Lists the targets
    #[arg(long)]
    list: bool,
}

impl Fuzz {
    /// All targets, each for so long.
    pub fn all(seconds: u64) -> Self {
        Self {
            targets: Vec::new(),
            seconds,
            seed: None,
            iteration: None,
            list: false,
        }
    }
}

/// Runs the targets one after the other.
pub fn run(root: &Path, wanted: &Fuzz) -> Result<()> {
    let mut arguments: Vec<String> = ["run", "--quiet", "--package=fuzzing", "--"]
        .map(str::to_owned)
        .into();
    arguments.extend(wanted.targets.iter().cloned());
    arguments.extend(["--seconds".to_owned(), wanted.seconds.to_string()]);
    let mut number = |name: &str, value: Option<u64>| {
        arguments.extend(
            value
                .into_iter()
                .flat_map(|value| [name.to_owned(), value.to_string()]),
        );
    };
    number("--seed", wanted.seed);
    number("--iteration", wanted.iteration);
    arguments.extend(wanted.list.then(|| "--list".to_owned()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    cargo(root, &arguments)
}
