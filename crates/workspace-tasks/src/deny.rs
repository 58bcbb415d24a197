//! `cargo xtask deny`: licences, sources and duplicates of all packages, by `cargo-deny` and `deny.toml`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cargo, setup};

/// Pinned, so that the checks of a commit do not change.
const VERSION: &str = "0.20.2";

/// Settings for a fast build of cargo-deny, which takes longer than its checks.
const SOON: [(&str, &str); 3] = [
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
];

/// The checks that need no network. Those of `advisories` need a database that cargo-deny clones with git.
const OFFLINE: [&str; 3] = ["bans", "licenses", "sources"];

#[derive(Default, clap::Args)]
pub struct Deny {
    /// Also look for known vulnerabilities and for yanked and unmaintained packages, which needs the internet
    #[arg(long)]
    pub advisories: bool,
}

/// Installs cargo-deny into the directory of the tools, and runs the checks.
///
/// # Errors
/// cargo-deny cannot be installed, or reports an error.
pub fn run(root: &Path, options: &Deny) -> Result<()> {
    let directory = setup::tools(root).join(format!("cargo-deny-{VERSION}"));
    let program = directory.join("bin/cargo-deny");
    if !program.is_file() {
        let directory = directory.display().to_string();
        let install = ["install", "--quiet", "--locked", "--root", &directory];
        let package = ["cargo-deny", "--version", VERSION];
        let mut cargo = cargo::command(root);
        cargo.envs(SOON);
        cargo::run_to_end(cargo, &[&install[..], &package].concat())?;
    }
    let mut checks = OFFLINE.to_vec();
    if options.advisories {
        checks.push("advisories");
    }
    let status = Command::new(&program)
        .args([
            "--log-level",
            "warn",
            "--locked",
            "check",
            "--hide-inclusion-graph",
        ])
        .args(checks)
        .current_dir(root)
        .status()
        .with_context(|| format!("start {}", program.display()))?;
    if !status.success() {
        bail!("cargo-deny ended with {status}");
    }
    Ok(())
}
