//! `mainstay install` and `mainstay uninstall`: the program, its man pages, the completions of shells
//! and a service of systemd, where all users find them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;
use data_directory::Role;
use program_installation::{DEFAULT_DATA, InstallTarget, Installation};

use crate::manual::{self, Shell};
use crate::settings::DataDirectory;

/// Arguments of `mainstay install`.
#[derive(clap::Args, Debug)]
#[command(after_help = INSTALL_HELP)]
pub struct InstallArguments {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    data: DataDirectory,
    /// Command that the service runs
    #[arg(long, value_enum, value_name = "ROLE", default_value = "up")]
    role: Role,
}

const INSTALL_HELP: &str = "\
The files are /usr/local/bin/mainstay, man pages in /usr/local/share/man/man1, completions of
bash, zsh and fish in /usr/local/share, and with systemd /etc/systemd/system/mainstay.service,
which is enabled. Repeat the command with each new version, and the same --role. `mainstay
uninstall` removes the files.";

/// Arguments of `mainstay uninstall`.
#[derive(clap::Args, Debug)]
#[command(after_help = UNINSTALL_HELP)]
pub struct UninstallArguments {
    #[command(flatten)]
    target: TargetArguments,
}

const UNINSTALL_HELP: &str = "\
Data is kept. `mainstay down --all` deletes it; run it before `mainstay uninstall`.";

/// The destination, and whether it is a dry run.
#[derive(clap::Args, Debug)]
struct TargetArguments {
    /// Print the changes and make none
    #[arg(long)]
    dry_run: bool,
    /// Directory in place of /, for packages; no service is enabled
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl TargetArguments {
    /// The destination of a command that this user may run.
    fn target(&self, command: &str) -> Result<InstallTarget> {
        let target = InstallTarget {
            dry_run: self.dry_run,
            root: self.root.clone(),
        };
        target.require_root(command)?;
        Ok(target)
    }
}

const PAGES: &str = "/usr/local/share/man/man1";
const COMPLETIONS: [(Shell, &str); 3] = [
    (
        Shell::Bash,
        "/usr/local/share/bash-completion/completions/mainstay",
    ),
    (Shell::Zsh, "/usr/local/share/zsh/site-functions/_mainstay"),
    (
        Shell::Fish,
        "/usr/local/share/fish/vendor_completions.d/mainstay.fish",
    ),
];

/// Installs the program, its unit, its shell completion and its manual pages, and records them.
pub fn install(arguments: &InstallArguments, command: &Command) -> Result<()> {
    let target = arguments.target.target("install")?;
    let data = match arguments.data.is_named()? {
        true => std::path::absolute(arguments.data.path()?)
            .context("make the path of the data directory absolute")?,
        false => DEFAULT_DATA.into(),
    };
    let configuration = arguments.data.configuration_path();
    let configuration = configuration.map(std::path::absolute).transpose();
    let configuration =
        configuration.context("make the path of the configuration file absolute")?;
    program_installation::install(Installation {
        target,
        role: arguments.role,
        data,
        configuration,
        texts: texts(command),
    })?;
    Ok(())
}

/// Paths and contents of the man pages and completions.
fn texts(command: &Command) -> Vec<(PathBuf, String)> {
    let pages = manual::pages(command.clone()).into_iter();
    let pages = pages.map(|(name, page)| (Path::new(PAGES).join(name), page));
    let completions = COMPLETIONS.into_iter();
    let completions =
        completions.map(|(shell, path)| (path.into(), manual::completion(shell, command.clone())));
    pages.chain(completions).collect()
}

/// Removes the files that `install` recorded, except for those that were changed.
pub fn uninstall(arguments: &UninstallArguments) -> Result<()> {
    program_installation::uninstall(&arguments.target.target("uninstall")?)?;
    Ok(())
}

#[cfg(test)]
mod tests;
