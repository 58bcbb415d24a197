//! `mainstay down`: stops the server of a data directory, cleans up after a killed one, and deletes
//! data if requested, but only in directories with an instance's marker.

mod leftovers;
mod removal;

use std::fs;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use console::output::{say, show};
use data_directory::Marker;
use data_directory::process::{self, Identity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::settings::DataDirectory;
use data_directory::left_pods;
use removal::{DeletionExtent, Listener};

/// Maximum time of `down`: longer than any usual grace period of a database.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// Interval of progress messages about a part of the data.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Arguments of `mainstay down`.
#[derive(clap::Args, Debug)]
pub struct DownArguments {
    #[command(flatten)]
    data: DataDirectory,
    /// Also delete the cluster: all objects and the data of all volumes. Images, registries.yaml, seccomp
    /// profiles and the server token are kept
    #[arg(long, group = "deletion")]
    volumes: bool,
    /// Also delete all files of mainstay in the data directory, the server token too
    #[arg(long, group = "deletion")]
    all: bool,
    /// Do not ask before deleting
    #[arg(long, requires = "deletion")]
    yes: bool,
}

impl DownArguments {
    fn extent(&self) -> Option<DeletionExtent> {
        match (self.volumes, self.all) {
            (_, true) => Some(DeletionExtent::All),
            (true, false) => Some(DeletionExtent::Cluster),
            (false, false) => None,
        }
    }
}

/// Stops the server of a data directory and waits for its end; deletes the data if requested.
pub async fn run(arguments: &DownArguments) -> Result<()> {
    let data = arguments.data.path()?;
    // Links in the kernel and in files name the directory by its absolute path.
    let data = std::path::absolute(&data).with_context(|| format!("use {}", data.display()))?;
    let marker = Marker::read(&data).ok().flatten();
    let deletion = match (arguments.extent(), &marker) {
        (None, _) => None,
        (Some(extent), Some(marker)) => Some((extent, marker.clone())),
        (Some(_), None) => bail!("{}", not_marked(&data)),
    };
    if let Some((extent, _)) = &deletion
        && !arguments.yes
        && !confirmed(&data, *extent)?
    {
        bail!("nothing was stopped or deleted");
    }
    let served = match process::serving(&data) {
        Some(server) => {
            stop(server, &data)?;
            true
        }
        None => false,
    };
    let left = left_pods::on_all_nodes(&data);
    if !left.is_empty() {
        say(&format!(
            "no server runs on {}; ending {} of a killed server: {}",
            data.display(),
            left_pods::counted(left.len()),
            left_pods::listed(&left)
        ));
        leftovers::end(&data, marker.as_ref(), &left).await?;
        say("ended");
    } else if !served && deletion.is_none() {
        bail!("no server runs on {}", data.display());
    }
    if let Some((extent, marker)) = deletion {
        // A server that was killed without a pod has left its network, one with a pool its mount.
        leftovers::end(&data, Some(&marker), &[]).await?;
        delete(&data, extent, marker)?;
    }
    Ok(())
}

fn not_marked(data: &Path) -> String {
    let shown = data.display();
    let of_root = match nix::unistd::geteuid().is_root() {
        true => "",
        false => ". What root has started, root stops: put sudo in front",
    };
    if !data.exists() {
        return format!("there is no directory {shown}{of_root}");
    }
    format!(
        "{shown} is not marked as a data directory of mainstay (it has no readable file named \
         `{}`): nothing was stopped or deleted. One of mainstay 0.1.0 is marked by the next \
         `mainstay up` on it{of_root}",
        data_directory::MARKER_FILE
    )
}

/// Stops the server as Ctrl-C does: with its pods, whatever its behaviour on SIGTERM.
///
/// # Errors
/// It does not stop.
pub fn stop(server: Identity, data: &Path) -> Result<()> {
    let mut pods = left_pods::on_all_nodes(data);
    say(&format!(
        "stopping process {} and {}",
        server.pid,
        left_pods::counted(pods.len())
    ));
    kill(Pid::from_raw(server.pid), Signal::SIGINT)
        .with_context(|| format!("stop process {}", server.pid))?;
    let started = Instant::now();
    let deadline = started + STOP_TIMEOUT;
    while server.is_alive() {
        let now = left_pods::on_all_nodes(data);
        if pods != now && !now.is_empty() {
            let text = format!(
                "{} left: {}",
                left_pods::counted(now.len()),
                left_pods::listed(&now)
            );
            step(started, &text);
        }
        pods = now;
        if Instant::now() > deadline {
            bail!(
                "process {} has not stopped after {STOP_TIMEOUT:?}; {} left: {}",
                server.pid,
                left_pods::counted(pods.len()),
                left_pods::listed(&pods)
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    say("stopped");
    Ok(())
}

/// Deletes data and prints the progress every second.
fn delete(data: &Path, extent: DeletionExtent, mut marker: Marker) -> Result<()> {
    let shown = data.display();
    match extent {
        DeletionExtent::Cluster => say(&format!("deleting the cluster in {shown}")),
        DeletionExtent::All => say(&format!("deleting {shown}")),
    }
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
    removal::delete(data, extent, &mut listener)?;
    if extent == DeletionExtent::Cluster {
        marker.cluster = false;
        marker.write(data)?;
        say(&format!("deleted the cluster in {shown}; {}", kept(data)));
        return Ok(());
    }
    match removal::remove_root(data)? {
        left if left.is_empty() => say(&format!("deleted {shown}")),
        left => say(&format!(
            "deleted all files of mainstay in {shown}; other files are kept: {}",
            left.join(", ")
        )),
    }
    Ok(())
}

fn kept(data: &Path) -> String {
    let mut names: Vec<String> = fs::read_dir(data)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != data_directory::MARKER_FILE)
        .collect();
    names.sort_unstable();
    match names.is_empty() {
        true => "`mainstay up` begins a new one".to_owned(),
        false => format!("kept: {}", names.join(", ")),
    }
}

/// A line of progress, as `up` shows them.
fn step(started: Instant, text: &str) {
    let elapsed = started.elapsed().as_secs_f64();
    say(&format!("{elapsed:6.2}s {text}"));
}

fn confirmed(data: &Path, extent: DeletionExtent) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("--volumes and --all delete data: add --yes if there is no terminal");
    }
    let shown = data.display();
    let what = match extent {
        DeletionExtent::Cluster => format!(
            "the cluster in {shown}: all objects, and the data of {} volumes",
            removal::volumes(data)
        ),
        DeletionExtent::All => format!(
            "{shown}: all objects, the data of {} volumes, all images, registries.yaml and the server token",
            removal::volumes(data)
        ),
    };
    show(&format!("Delete {what}? Type yes: "));
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("read the answer")?;
    Ok(answer.trim() == "yes")
}
