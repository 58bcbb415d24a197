//! The server process of a data directory: its identity, its start in the background, its stop by another process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use command_output::output::print_line;
use host_kernel::durable_file;

/// Maximum time until a background server is ready: longer than the recovery of a large store on a busy disk.
const READY_TIMEOUT: Duration = Duration::from_secs(600);
/// Time after which a message reports a slow start.
const SLOW_START: Duration = Duration::from_secs(10);
/// The files that a process of a data directory locks: the store of a server, or the membership of a node.
const LOCKS: [&str; 2] = ["store/lock", "node/lock"];
/// The marker in the log line about an object that could not be applied.
pub const NOT_APPLIED: &str = " not applied: ";

/// A process. The start time distinguishes it from a later process with an equal id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub pid: i32,
    started: u64,
}

impl Identity {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain any character; the fields after it are numbers (proc(5)).
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        // A zombie has exited, although its parent has not waited for it yet.
        let has_ended = matches!(fields.next()?, "Z" | "X");
        let started = fields.nth(18)?.parse().ok()?;
        (!has_ended).then_some(Self { pid, started })
    }

    /// Whether the process still runs: the process id and the start time are equal.
    pub fn is_alive(self) -> bool {
        Self::read(self.pid) == Some(self)
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.parse().ok()?,
        })
    }
}

fn file(data: &Path) -> PathBuf {
    data.join("process")
}

/// Records that this process serves the data directory. An existing file is overwritten in place, so that no free
/// space is needed on a full disk.
pub fn note(data: &Path) -> Result<()> {
    let this_process = i32::try_from(std::process::id())
        .ok()
        .and_then(Identity::read);
    let this_process = this_process.context("read the start time of this process")?;
    let path = file(data);
    let text = format!("{} {}\n", this_process.pid, this_process.started);
    let length = text.len() as u64;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .custom_flags(durable_file::no_link())
        .open(&path);
    file.and_then(|file| {
        file.write_all_at(text.as_bytes(), 0)?;
        file.set_len(length)
    })
    .with_context(|| format!("write {}", path.display()))
}

/// The server process of the data directory; `None` if no server runs. The file with its id may be a copy from
/// another directory, so the lock of the store is checked, too: a running server holds it.
pub fn serving(data: &Path) -> Option<Identity> {
    let text = fs::read_to_string(file(data)).ok()?;
    let identity = Identity::parse(&text).filter(|identity| identity.is_alive())?;
    let mut locks = LOCKS.iter().map(|lock| File::open(data.join(lock)));
    let is_free = locks.any(|lock| lock.is_ok_and(|lock| lock.try_lock().is_ok()));
    (!is_free).then_some(identity)
}

/// The message about a server that already runs.
pub fn runs_already(data: &Path, server: Identity) -> String {
    let path = data.display();
    format!(
        "mainstay already runs on {path} (process {}): `kubectl --kubeconfig {} apply -f FILE` \
         applies to it, `mainstay down --data-dir {path}` stops it; a second one needs a --data-dir of \
         its own",
        server.pid,
        data.join("kubeconfig").display()
    )
}

/// Starts this program in the background, without `--detach`, and waits until it is ready and has applied `objects`
/// objects. `input` is its standard input, from which some of the objects may come. Its output goes to `log` in the
/// data directory.
pub fn detach(data: &Path, input: &str, objects: usize) -> Result<()> {
    if let Some(server) = serving(data) {
        bail!(runs_already(data, server));
    }
    crate::make(data)?;
    let path = data.join("log");
    let log = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .custom_flags(durable_file::no_link())
        .open(&path)
        .with_context(|| format!("write {}", path.display()))?;
    let private = log.set_permissions(fs::Permissions::from_mode(0o600));
    private.with_context(|| format!("make {} private", path.display()))?;
    let errors = log
        .try_clone()
        .context("duplicate the descriptor of the log")?;
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--detach");
    let program = std::env::current_exe().context("find this program's file")?;
    let mut child = Command::new(program)
        .args(arguments)
        .arg(IN_BACKGROUND)
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .context("start in the background")?;
    if let Some(mut standard_input) = child.stdin.take() {
        // A process that exits before it has read all of its input reports the reason in its log.
        standard_input.write_all(input.as_bytes()).ok();
    }
    let started = Instant::now();
    let mut is_reported = false;
    loop {
        if let Some(lines) = first_lines(&path, 1 + objects) {
            for line in &lines {
                print_line(line);
            }
            print_line(&format!(
                "It runs in the background as process {}; its log is {}.",
                child.id(),
                path.display()
            ));
            if lines.iter().any(|line| line.contains(NOT_APPLIED)) {
                bail!("some objects were not applied; the server continues to run without them");
            }
            return Ok(());
        }
        if let Some(status) = child.try_wait().context("look after the server")? {
            let text = fs::read_to_string(&path).unwrap_or_default();
            bail!("the server ended with {status}:\n{}", text.trim_end());
        }
        let waited = started.elapsed();
        if waited > READY_TIMEOUT {
            bail!(
                "the server is not ready after {READY_TIMEOUT:?}; see {}",
                path.display()
            );
        }
        if waited > SLOW_START && !is_reported {
            is_reported = true;
            print_line(&format!(
                "The server is still starting; its log is {}.",
                path.display()
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The flag of a background server.
pub const IN_BACKGROUND: &str = "--in-background";

/// The line about the ready server, and one line for each applied object; `None` while lines are missing. Warnings
/// and other messages may be between them.
fn first_lines(log: &Path, count: usize) -> Option<Vec<String>> {
    let lines = BufReader::new(File::open(log).ok()?).lines();
    let is_outcome = |line: &String| {
        let outcomes = [" created", " configured", " unchanged"];
        let is_applied = outcomes.iter().any(|outcome| line.ends_with(outcome));
        (is_applied || line.contains(NOT_APPLIED)) && line.contains('/')
    };
    let lines: Vec<String> = lines
        .map_while(Result::ok)
        .skip_while(|line| !line.starts_with("mainstay: ready"))
        .enumerate()
        .filter(|(number, line)| *number == 0 || is_outcome(line))
        .map(|(_, line)| line)
        .take(count)
        .collect();
    (lines.len() == count).then_some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let ready = "mainstay: ready in 1ms at https://127.0.0.1:1 (kubeconfig /k)";
        let service = "service/web created";
        fs::write(&log, "a warning\n").unwrap();
        assert_eq!(first_lines(&log, 1), None);
        fs::write(&log, format!("a warning\n{ready}\n")).unwrap();
        assert_eq!(first_lines(&log, 1).unwrap(), [ready]);
        assert_eq!(first_lines(&log, 2), None);
        let text = format!("{ready}\nWarning: old\n{service}\n  0.00s web-0: waiting\n");
        fs::write(&log, text).unwrap();
        assert_eq!(first_lines(&log, 2).unwrap(), [ready, service]);
        assert_eq!(first_lines(&log, 3), None);
        // Findings R8: a refused object is a result, too.
        let refused = format!("statefulset.apps/db{NOT_APPLIED}replicas must not be negative");
        fs::write(&log, format!("{ready}\n{service}\n{refused}\n")).unwrap();
        assert_eq!(first_lines(&log, 3).unwrap(), [ready, service, &refused]);
    }

    #[test]
    fn a_process_that_nobody_waits_for_has_ended() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let identity = Identity::read(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(identity.is_alive());
        drop(child.stdin.take());
        while identity.is_alive() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(child.try_wait().unwrap().is_some_and(|end| end.success()));
    }

    #[test]
    fn this_process_is_found_and_a_later_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        note(directory.path()).unwrap();
        let identity = serving(directory.path()).unwrap();
        assert_eq!(identity.pid, i32::try_from(std::process::id()).unwrap());
        // The file is a copy: no process holds the lock of its store.
        fs::create_dir(directory.path().join("store")).unwrap();
        let lock = File::create(directory.path().join("store/lock")).unwrap();
        assert_eq!(serving(directory.path()), None);
        lock.lock().unwrap();
        assert_eq!(serving(directory.path()), Some(identity));
        let later = format!("{} {}\n", identity.pid, identity.started + 1);
        fs::write(file(directory.path()), later).unwrap();
        assert_eq!(serving(directory.path()), None);
    }
}
