//! Commands as a person types them, in a shell.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::beside::Beside;
use crate::kubectl::finish;
use crate::{Instance, Output};

/// A shell in a directory, with `kubectl` on its path and the kubeconfig of one server.
#[derive(Clone, Debug)]
pub struct Shell {
    directory: PathBuf,
    data: PathBuf,
}

impl Shell {
    /// A shell in `directory`.
    pub fn new(instance: &Instance, directory: PathBuf) -> Self {
        Self {
            directory,
            data: instance.data(),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = command(program, &self.directory, &self.data);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a line and returns whatever came.
    ///
    /// # Panics
    /// When there is no shell.
    #[track_caller]
    pub fn run(&self, line: &str) -> Output {
        finish(self.command("sh").args(["-c", line]).spawn(), None)
    }

    /// Runs a line that must succeed, returns standard output.
    ///
    /// # Panics
    /// When the line fails.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        self.run(line).expect_success(line)
    }

    /// Runs a line that must fail, returns standard error.
    ///
    /// # Panics
    /// When the line succeeds.
    #[track_caller]
    pub fn fails(&self, line: &str) -> String {
        let output = self.run(line);
        assert_ne!(output.code, 0, "{line} succeeded: {output:#?}");
        output.stderr
    }

    /// Runs a line on a terminal of its own, typing `input`; returns what the terminal showed.
    ///
    /// # Panics
    /// When the terminal cannot be made.
    #[track_caller]
    pub fn on_terminal(&self, line: &str, input: &str) -> Output {
        let mut script = self.command("script");
        script.args(["--quiet", "--return", "--command", line, "/dev/null"]);
        let mut output = finish(script.stdin(Stdio::piped()).spawn(), Some(input));
        output.stdout = output.stdout.replace('\r', "");
        output
    }

    /// Starts a line in another terminal, so to speak.
    ///
    /// # Panics
    /// When there is no shell, or its output cannot be kept.
    #[track_caller]
    pub fn beside(&self, line: &str) -> Beside {
        let mut shell = self.command("sh");
        // The shell makes way for the program, which then is what is killed.
        shell.args(["-c", &format!("exec {line}")]);
        Beside::start(shell)
    }

    /// Starts a watch of kubectl as [`beside`](Self::beside), and waits until it is open.
    ///
    /// # Panics
    /// When the server does not answer it.
    #[track_caller]
    pub fn watch(&self, line: &str) -> Beside {
        let mut shell = self.command("sh");
        shell.args(["-c", &format!("exec {line} {}", Beside::LOGS_REQUESTS)]);
        Beside::watch(shell)
    }
}

/// A program with `kubectl` on its path and the kubeconfig of a server's data directory.
pub(crate) fn command(program: &str, directory: &Path, data: &Path) -> Command {
    let mut path = crate::tools().into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command
        .current_dir(directory)
        .env("PATH", path)
        .env("KUBECONFIG", data.join("kubeconfig"))
        .env("KUBECACHEDIR", data.join("kubectl-cache"));
    command
}
