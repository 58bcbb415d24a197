//! Runs credential plug-ins.

use std::io::{self, IsTerminal};
use std::process::{ExitStatus, Stdio};

use tokio::process::Command;

use crate::file::InteractiveMode;
use crate::plugin::{OutputError, Plugin, PluginCredentials};

/// The reason why a plug-in returned no credentials.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The certificate authority of the cluster cannot be read.
    #[error("read the certificate authority")]
    Authority(#[source] io::Error),
    /// The program reads the standard input, which is not a terminal.
    #[error("the plug-in {0:?} needs a terminal")]
    NoTerminal(String),
    /// The program cannot be started.
    #[error("run the plug-in {command:?}: {error}{}", hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Start {
        command: String,
        error: io::Error,
        /// The hint in the kubeconfig about the installation of the program.
        hint: Option<String>,
    },
    /// The program failed.
    #[error("the plug-in {command:?} failed: {status}")]
    Failed { command: String, status: ExitStatus },
    /// The program's output is malformed.
    #[error("the plug-in {command:?}: {reason}")]
    Output {
        command: String,
        /// The error in the output.
        reason: OutputError,
    },
}

/// Runs a plug-in and returns its credentials. Its messages go to the standard error.
pub(crate) async fn run(plugin: &Plugin) -> Result<PluginCredentials, ExecError> {
    let command = plugin.command.clone();
    let input = reads_input(plugin.interactive_mode, io::stdin().is_terminal());
    let Some(is_interactive) = input else {
        return Err(ExecError::NoTerminal(command));
    };
    let authority = plugin
        .cluster
        .as_ref()
        .and_then(|one| one.authority.as_ref());
    let authority = authority.map(|pem| pem.read()).transpose();
    let authority = authority.map_err(ExecError::Authority)?;
    let variables = plugin.env.iter().map(|one| (&one.name, &one.value));
    let run = Command::new(&command)
        .args(&plugin.args)
        .envs(variables)
        .env(
            "KUBERNETES_EXEC_INFO",
            plugin.input(authority.as_deref(), is_interactive),
        )
        .stdin(match is_interactive {
            true => Stdio::inherit(),
            false => Stdio::null(),
        })
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = run.await.map_err(|error| ExecError::Start {
        command: command.clone(),
        error,
        hint: plugin.install_hint.clone(),
    })?;
    if !output.status.success() {
        let status = output.status;
        return Err(ExecError::Failed { command, status });
    }
    let credentials = plugin.parse_output(&output.stdout);
    credentials.map_err(|reason| ExecError::Output { command, reason })
}

/// Whether a program gets the standard input; `None` if it needs a terminal that does not exist.
fn reads_input(mode: InteractiveMode, is_terminal: bool) -> Option<bool> {
    match (mode, is_terminal) {
        (InteractiveMode::Never, _) => Some(false),
        (InteractiveMode::IfAvailable, is_terminal) => Some(is_terminal),
        (InteractiveMode::Always, true) => Some(true),
        (InteractiveMode::Always, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_is_for_those_who_read_it() {
        assert_eq!(reads_input(InteractiveMode::Never, true), Some(false));
        assert_eq!(reads_input(InteractiveMode::IfAvailable, true), Some(true));
        assert_eq!(
            reads_input(InteractiveMode::IfAvailable, false),
            Some(false)
        );
        assert_eq!(reads_input(InteractiveMode::Always, true), Some(true));
        assert_eq!(reads_input(InteractiveMode::Always, false), None);
    }
}
