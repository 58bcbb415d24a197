//! kubectl, as a user runs it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::background::BackgroundProgram;

/// The time after which a program is killed and the test fails with its output. It is longer than each `--timeout` in the
/// tests, and shorter than the time after which a test is ended without a message.
const RUN_MAX: Duration = Duration::from_secs(700);

/// Runs `kubectl` with one kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    cache: PathBuf,
    pub(crate) namespace: String,
    pub(crate) token: Option<String>,
}

/// The output of a command and its exit code.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; -1 if a signal ended the process.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Kubectl {
    /// A client for the given kubeconfig, with a separate discovery cache in the same directory.
    pub fn new(kubeconfig: &Path) -> Self {
        let cache = kubeconfig.with_extension("kubectl-cache");
        Self {
            program: crate::tool("kubectl"),
            kubeconfig: kubeconfig.to_owned(),
            cache,
            namespace: "default".to_owned(),
            token: None,
        }
    }

    /// A client with a token instead of the administrator's certificate.
    ///
    /// # Panics
    ///
    /// The kubeconfig cannot be copied.
    #[track_caller]
    pub fn with_token(&self, token: &str) -> Self {
        let certificates = ["client-certificate-data", "client-key-data"];
        let text = std::fs::read_to_string(&self.kubeconfig).expect("read the kubeconfig");
        let lines = text.lines();
        let remaining_lines: Vec<String> = lines
            .filter(|line| !certificates.iter().any(|field| line.contains(field)))
            .map(|line| match line.trim() {
                "user:" => format!("{line} {{}}"),
                _ => line.to_owned(),
            })
            .collect();
        let kubeconfig = self.kubeconfig.with_extension("without-certificate");
        std::fs::write(&kubeconfig, remaining_lines.join("\n")).expect("write a kubeconfig");
        Self {
            kubeconfig,
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    /// A client that works in a new namespace, which is created.
    ///
    /// # Panics
    ///
    /// The namespace cannot be created.
    #[track_caller]
    pub fn in_new_namespace(&self, name: &str) -> Self {
        self.ok(&["create", "namespace", name]);
        Self {
            namespace: name.to_owned(),
            ..self.clone()
        }
    }

    /// The command, to which the caller may add arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .arg("--namespace")
            .arg(&self.namespace)
            .args(self.token.iter().flat_map(|token| ["--token", token]))
            .args(arguments)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null());
        command
    }

    /// Runs kubectl and returns its output, whether it succeeds or not.
    pub fn run(&self, arguments: &[&str]) -> Output {
        finish(
            self.command(arguments)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn(),
            None,
        )
    }

    /// Runs kubectl with text on standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        finish_with_input(self.command(arguments), input)
    }

    /// Runs kubectl, which must succeed; returns standard output.
    ///
    /// # Panics
    ///
    /// The command fails.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).expect_success(&arguments.join(" "))
    }

    /// Runs kubectl with text on standard input; it must succeed. Returns standard output.
    ///
    /// # Panics
    ///
    /// The command fails.
    #[track_caller]
    pub fn ok_with_input(&self, arguments: &[&str], input: &str) -> String {
        self.run_with_input(arguments, input)
            .expect_success(&arguments.join(" "))
    }

    /// Runs kubectl, which must fail; returns standard error.
    ///
    /// # Panics
    ///
    /// The command succeeds.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_ne!(
            output.code,
            0,
            "kubectl {} succeeded: {output:#?}",
            arguments.join(" ")
        );
        output.stderr
    }

    /// Runs kubectl in a new terminal, into which `input` is typed; returns the output of the terminal.
    ///
    /// # Panics
    ///
    /// The terminal cannot be created.
    #[track_caller]
    pub fn on_terminal(&self, arguments: &[&str], input: &str) -> Output {
        let plain = self.command(arguments);
        let words: Vec<String> = std::iter::once(plain.get_program())
            .chain(plain.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")))
            .collect();
        let mut command = Command::new("script");
        command.args([
            "--quiet",
            "--return",
            "--command",
            &words.join(" "),
            "/dev/null",
        ]);
        finish_with_input(command, input)
    }

    /// Starts a command that runs concurrently with the test.
    ///
    /// # Panics
    ///
    /// kubectl is missing, or its output cannot be stored.
    #[track_caller]
    pub fn start(&self, arguments: &[&str]) -> BackgroundProgram {
        BackgroundProgram::start(self.command(arguments))
    }

    /// Starts a watch as [`start`](Self::start), and waits until it is open.
    ///
    /// # Panics
    ///
    /// The server does not respond to the watch.
    #[track_caller]
    pub fn watch(&self, arguments: &[&str]) -> BackgroundProgram {
        BackgroundProgram::watch(
            self.command(&[arguments, &[BackgroundProgram::LOGS_REQUESTS]].concat()),
        )
    }

    /// Applies a manifest that is given as text.
    ///
    /// # Panics
    ///
    /// The command fails.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.ok_with_input(&["apply", "-f", "-"], manifest)
    }

    /// The JSON output of a command, which must succeed. If [`get`](Self::get) can read the object, kubectl is not
    /// started. Waits use [`get_for_wait`](Self::get_for_wait).
    ///
    /// # Panics
    ///
    /// The command fails, or prints no JSON.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        if let ["get", arguments @ ..] = arguments {
            let object = self.get(arguments);
            return object.unwrap_or_else(|error| panic!("get {arguments:?}: {error}"));
        }
        let text = self.ok(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).expect("kubectl -o json prints JSON")
    }
}

impl Output {
    /// Standard output of a success.
    ///
    /// # Panics
    /// The command failed.
    #[track_caller]
    pub fn expect_success(self, what: &str) -> String {
        assert_eq!(self.code, 0, "{what} failed: {self:#?}");
        self.stdout
    }

    /// Standard output of a success, or the whole output of a failure.
    ///
    /// # Errors
    ///
    /// The command failed.
    pub fn success(self) -> Result<String, Self> {
        if self.code == 0 {
            Ok(self.stdout)
        } else {
            Err(self)
        }
    }
}

fn finish_with_input(mut command: Command, input: &str) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    finish(command.spawn(), Some(input))
}

#[track_caller]
pub(crate) fn finish(child: std::io::Result<Child>, input: Option<&str>) -> Output {
    let mut child = child.expect("start kubectl");
    let pid = child.id();
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        // A client that fails early closes the pipe; its own message has the reason.
        drop(pipe.write_all(input.as_bytes()));
    }
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = receiver.recv_timeout(RUN_MAX).unwrap_or_else(|_| {
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).ok();
        // A child of the program may have its output open.
        let output = receiver.recv_timeout(Duration::from_secs(10));
        panic!("the program did not end within {RUN_MAX:?}: {output:?}");
    });
    let output = output.expect("wait for kubectl");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
