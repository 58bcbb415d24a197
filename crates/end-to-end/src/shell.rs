//! Commands in a shell, as a user types them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::background::BackgroundProgram;
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

    /// Runs a line and returns its output, whether it succeeds or not.
    ///
    /// # Panics
    ///
    /// The shell is missing.
    #[track_caller]
    pub fn run(&self, line: &str) -> Output {
        finish(self.command("sh").args(["-c", line]).spawn(), None)
    }

    /// Runs a line that must succeed; returns standard output.
    ///
    /// # Panics
    ///
    /// The line fails.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        self.run(line).expect_success(line)
    }

    /// Runs a line that must fail; returns standard error.
    ///
    /// # Panics
    ///
    /// The line succeeds.
    #[track_caller]
    pub fn fails(&self, line: &str) -> String {
        let output = self.run(line);
        assert_ne!(output.code, 0, "{line} succeeded: {output:#?}");
        output.stderr
    }

    /// Runs a line in a new terminal, into which `input` is typed; returns the output of the terminal.
    ///
    /// # Panics
    ///
    /// The terminal cannot be created.
    #[track_caller]
    pub fn on_terminal(&self, line: &str, input: &str) -> Output {
        let mut script = self.command("script");
        script.args(["--quiet", "--return", "--command", line, "/dev/null"]);
        let mut output = finish(script.stdin(Stdio::piped()).spawn(), Some(input));
        output.stdout = output.stdout.replace('\r', "");
        output
    }

    /// Starts a line that runs concurrently with the test, like in a second terminal.
    ///
    /// # Panics
    ///
    /// The shell is missing, or its output cannot be stored.
    #[track_caller]
    pub fn start(&self, line: &str) -> BackgroundProgram {
        let mut shell = self.command("sh");
        // `exec` replaces the shell by the program, so that a kill reaches the program.
        shell.args(["-c", &format!("exec {line}")]);
        BackgroundProgram::start(shell)
    }

    /// Starts a watch of kubectl as [`start`](Self::start), and waits until it is open.
    ///
    /// # Panics
    ///
    /// The server does not respond to the watch.
    #[track_caller]
    pub fn watch(&self, line: &str) -> BackgroundProgram {
        let mut shell = self.command("sh");
        shell.args([
            "-c",
            &format!("exec {line} {}", BackgroundProgram::LOGS_REQUESTS),
        ]);
        BackgroundProgram::watch(shell)
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
