//! `mainstay version`: what this program is, and the licences of the libraries in it.

use command_output::output;

/// The licences of all libraries in the program. `cargo xtask licences` writes the file.
const LICENCES: &str = include_str!("licences.txt");

/// The arguments of `mainstay version`.
#[derive(clap::Args)]
pub struct VersionArguments {
    /// Print the licences of the program and of all libraries in it instead
    #[arg(long)]
    licences: bool,
}

/// Prints the version of the program, its commit and the version of the API; or the licences.
pub fn version(arguments: &VersionArguments) {
    if arguments.licences {
        output::print_line(LICENCES.trim_end());
        return;
    }
    output::print_line(&format!("mainstay {}", env!("CARGO_PKG_VERSION")));
    if let Some(commit) = kube_api_server::git_commit() {
        output::print_line(&format!("commit {commit}"));
    }
    output::print_line(&format!(
        "Kubernetes API {}",
        kube_api_server::git_version()
    ));
}
