//! The process that serves a data directory: who it is, started in the background, stopped from
//! outside.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::removal::{self, Listener};
use crate::settings::DataDirectory;

/// How long a server in the background may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long `down` waits: longer than any usual grace period of a database.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// How often it is said how much of a part of the data has gone.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Arguments of `mainstay down`.
#[derive(clap::Args, Debug)]
pub struct DownArguments {
    #[command(flatten)]
    data: DataDirectory,
    /// Also delete all data of the instance, volumes included
    #[arg(long)]
    volumes: bool,
    /// Do not ask before deleting
    #[arg(long, requires = "volumes")]
    yes: bool,
}

/// A process, told apart from a later one with the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    pid: i32,
    started: u64,
}

impl Identity {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; the fields after it are numbers (proc(5)).
        let fields = stat.rsplit_once(')')?.1;
        let started = fields.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, started })
    }

    fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
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

/// Notes that this process serves the data directory.
pub fn note(data: &Path) -> Result<()> {
    let own = i32::try_from(std::process::id())
        .ok()
        .and_then(Identity::of);
    let own = own.context("find out about this process")?;
    let path = file(data);
    fs::write(&path, format!("{} {}\n", own.pid, own.started))
        .with_context(|| format!("write {}", path.display()))
}

/// The process that serves the data directory, if one does.
fn serving(data: &Path) -> Option<Identity> {
    let text = fs::read_to_string(file(data)).ok()?;
    Identity::parse(&text).filter(|identity| identity.is_alive())
}

/// Starts this program anew in the background, without `--detach`, and waits until it is ready and
/// has applied as many objects as it was given, some perhaps by `input`, its standard input. What it
/// prints goes to `log` in the data directory.
pub fn detach(data: &Path, input: &str, objects: usize) -> Result<()> {
    if let Some(server) = serving(data) {
        bail!("process {} already serves {}", server.pid, data.display());
    }
    make_data_directory(data)?;
    let path = data.join("log");
    let log = File::create(&path).with_context(|| format!("write {}", path.display()))?;
    let errors = log.try_clone().context("share the log")?;
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--detach");
    let program = std::env::current_exe().context("find this program's file")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .context("start in the background")?;
    if let Some(mut standard_input) = child.stdin.take() {
        // One that ends before it has read all says why in its log.
        standard_input.write_all(input.as_bytes()).ok();
    }
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        if let Some(lines) = first_lines(&path, 1 + objects) {
            for line in lines {
                println!("{line}");
            }
            println!(
                "It runs in the background as process {}; its log is {}.",
                child.id(),
                path.display()
            );
            return Ok(());
        }
        if let Some(status) = child.try_wait().context("look after the server")? {
            let text = fs::read_to_string(&path).unwrap_or_default();
            bail!("the server ended with {status}:\n{}", text.trim_end());
        }
        if Instant::now() > deadline {
            bail!(
                "the server is not ready after {READY_TIMEOUT:?}; see {}",
                path.display()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The line that says that the server is ready, and after it one for each object applied; nothing
/// while some are missing. Warnings and messages may stand between them.
fn first_lines(log: &Path, count: usize) -> Option<Vec<String>> {
    let lines = BufReader::new(File::open(log).ok()?).lines();
    let is_outcome = |line: &String| {
        let outcomes = [" created", " configured", " unchanged"];
        outcomes.iter().any(|outcome| line.ends_with(outcome)) && line.contains('/')
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

/// Stops the server of a data directory and waits until it has; deletes the data if asked.
pub fn down(arguments: &DownArguments) -> Result<()> {
    let data = arguments.data.path();
    if arguments.volumes && !arguments.yes && !confirmed(&data)? {
        bail!("nothing was stopped or deleted");
    }
    match serving(&data) {
        Some(server) => stop(server, &data)?,
        None if arguments.volumes => refuse_living_containers(&data)?,
        None => {
            refuse_living_containers(&data)?;
            bail!("no server runs on {}", data.display());
        }
    }
    if arguments.volumes {
        delete(&data)?;
    }
    Ok(())
}

/// A server that was killed leaves its containers running; their disks must not vanish from
/// under them.
fn refuse_living_containers(data: &Path) -> Result<()> {
    let left = pods_left(data);
    if left > 0 {
        bail!(
            "no server runs on {}, but {left} pods of one that was killed may: start `mainstay up` \
             on it once more, which takes them over, and stop that",
            data.display()
        );
    }
    Ok(())
}

/// How many pods a server that did not stop in order has left behind, alive or not.
pub fn pods_left(data: &Path) -> usize {
    fs::read_dir(data.join("sandboxes"))
        .map(Iterator::count)
        .unwrap_or(0)
}

/// Makes the data directory. Others may pass through it, but into none of the directories in it:
/// these hold pods' Secrets, logs and files that run as another user. Containers reach what is
/// theirs through mounts.
pub fn make_data_directory(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .and_then(|()| close_directories(path))
        .with_context(|| format!("make the data directory {}", path.display()))
}

/// Closes the directories in a directory, which earlier versions left open, to all but their owner.
fn close_directories(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

/// Stops the server as Ctrl-C does: with its pods, whatever it does on SIGTERM.
fn stop(server: Identity, data: &Path) -> Result<()> {
    let mut pods = pods_left(data);
    println!("stopping process {} and {}", server.pid, counted(pods));
    kill(Pid::from_raw(server.pid), Signal::SIGINT)
        .with_context(|| format!("stop process {}", server.pid))?;
    let started = Instant::now();
    let deadline = started + STOP_TIMEOUT;
    while server.is_alive() {
        let left = pods_left(data);
        if std::mem::replace(&mut pods, left) != left {
            step(started, &format!("{} left", counted(left)));
        }
        if Instant::now() > deadline {
            bail!(
                "process {} has not stopped after {STOP_TIMEOUT:?}",
                server.pid
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("stopped");
    Ok(())
}

/// Deletes the data directory, and says every second how far it is.
fn delete(data: &Path) -> Result<()> {
    println!("deleting {}", data.display());
    let started = Instant::now();
    let mut last = started;
    let mut listener = Listener {
        say: &mut |text| step(started, text),
        is_due: &mut || {
            let is_due = last.elapsed() >= PROGRESS_INTERVAL;
            if is_due {
                last = Instant::now();
            }
            is_due
        },
    };
    removal::delete(data, &mut listener)?;
    println!("deleted {}", data.display());
    Ok(())
}

/// A line of progress, as `up` shows them.
fn step(started: Instant, text: &str) {
    let elapsed = started.elapsed().as_secs_f64();
    // Nobody may be reading any more; what has begun goes on without them.
    drop(writeln!(std::io::stdout(), "{elapsed:6.2}s {text}"));
}

fn counted(pods: usize) -> String {
    match pods {
        1 => "1 pod".to_owned(),
        pods => format!("{pods} pods"),
    }
}

fn confirmed(data: &Path) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("--volumes deletes all data: say --yes where nobody can be asked");
    }
    print!(
        "Delete {} with all volumes in it? Type yes: ",
        data.display()
    );
    std::io::stdout().flush().context("ask")?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("read the answer")?;
    Ok(answer.trim() == "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings S6
    #[test]
    fn directories_in_the_data_directory_are_closed_to_others() {
        let around = tempfile::tempdir().unwrap();
        let data = around.path().join("data");
        fs::create_dir_all(data.join("pods")).unwrap();
        fs::set_permissions(data.join("pods"), fs::Permissions::from_mode(0o755)).unwrap();
        make_data_directory(&data).unwrap();
        let mode = fs::metadata(data.join("pods"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o700);
    }

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
    }

    #[test]
    fn this_process_is_found_and_a_later_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        note(directory.path()).unwrap();
        let own = serving(directory.path()).unwrap();
        assert_eq!(own.pid, i32::try_from(std::process::id()).unwrap());
        let later = format!("{} {}\n", own.pid, own.started + 1);
        fs::write(file(directory.path()), later).unwrap();
        assert_eq!(serving(directory.path()), None);
    }
}
