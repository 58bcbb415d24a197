//! Commands as a person types them, in a shell.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::kubectl::finish;
use crate::{Instance, Output, wait_for, wait_for_text};

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

    /// The shell after a `cd`.
    #[must_use]
    pub fn after(&self, cd: &str) -> Self {
        let to = cd.strip_prefix("cd ").unwrap_or(cd);
        Self {
            directory: self.directory.join(to),
            data: self.data.clone(),
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

/// A program that runs until it is dropped.
#[derive(Debug)]
pub struct Beside {
    child: Child,
    output: tempfile::NamedTempFile,
}

impl Beside {
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        let output = tempfile::NamedTempFile::new().expect("a file for the output");
        let log = File::create(output.path()).expect("open the output");
        let child = command.stdout(log).spawn().expect("start a program");
        Self { child, output }
    }

    /// The option of kubectl that prints each request with its answer to standard error.
    pub(crate) const LOGS_REQUESTS: &str = "-v=6";

    /// Starts a watch of kubectl that logs its requests, and waits until the server has answered:
    /// from then on nothing is missed.
    #[track_caller]
    pub(crate) fn watch(mut command: Command) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a file for the log");
        command.stderr(File::create(log.path()).expect("open the log"));
        let watch = Self::start(command);
        wait_for_text("watch=true", 60, || read(log.path()));
        watch
    }

    /// The output so far.
    pub fn output(&self) -> String {
        read(self.output.path())
    }

    /// The first words of each line: `web-0 0/1 Pending`.
    pub fn rows(&self, columns: usize) -> Vec<String> {
        let output = self.output();
        let words = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().take(columns).collect();
            words.join(" ")
        };
        output.lines().map(words).collect()
    }

    /// Checks that a watch of pods showed these rows of name, containers and state in this order,
    /// whatever it showed between them.
    ///
    /// # Panics
    /// When one does not come in its turn.
    #[track_caller]
    pub fn showed_in_order<T: AsRef<str>>(&self, wanted: &[T]) {
        let rows = self.rows(3);
        let mut rest = rows.iter();
        for row in wanted.iter().map(AsRef::as_ref) {
            let found = rest.any(|shown| shown == row);
            assert!(found, "{row:?} does not come in its turn in {rows:#?}");
        }
    }

    /// Waits until a watch of pods has shown a row.
    ///
    /// # Panics
    /// When it takes too long.
    #[track_caller]
    pub fn wait_row(&self, row: &str) {
        wait_for(row, 90, || {
            let rows = self.rows(3);
            let shown = rows.iter().any(|shown| shown == row);
            if shown { Ok(()) } else { Err(rows) }
        });
    }

    /// Waits until the last row that a watch of pods has shown is this one.
    ///
    /// # Panics
    /// When it takes too long.
    #[track_caller]
    pub fn wait_last_row(&self, row: &str) {
        wait_for(&format!("{row} at the end"), 60, || {
            let rows = self.rows(3);
            let shown = rows.last().is_some_and(|last| last == row);
            if shown { Ok(()) } else { Err(rows) }
        });
    }
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Drop for Beside {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
