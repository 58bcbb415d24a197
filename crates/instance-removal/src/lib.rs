//! The removal of an instance from its machine: stops its server, stops pods and removes kernel objects of a
//! killed server, and deletes its data on request.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod error;
mod leftovers;
mod removal;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use command_output::failed_step::StepContext;
use command_output::output::print_line;
use data_directory::process::Identity;
use data_directory::{Marker, left_pods};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use error::Result;

pub use error::RemovalError;
pub use leftovers::end as end_leftovers;
use removal::Listener;
pub use removal::{DeletionExtent, volumes as volume_count};

/// Maximum time of a stop: longer than the usual grace period of a database.
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
/// Interval of progress messages about a part of the data.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Stops the server as Ctrl-C does: its pods stop too, whatever `--on-stop` says. Prints the progress.
///
/// # Errors
/// The server does not stop.
pub fn stop(server: Identity, data: &Path) -> Result<()> {
    let mut pods = left_pods::on_all_nodes(data);
    print_line(&format!(
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
            let pid = server.pid;
            let waited = STOP_TIMEOUT;
            return Err(RemovalError::NotStopped { pid, waited, pods });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    print_line("stopped");
    Ok(())
}

/// Deletes the data of an instance, and prints the progress every second.
///
/// # Errors
/// An entry cannot be deleted, or something is mounted inside of the data.
pub fn delete(data: &Path, extent: DeletionExtent, mut marker: Marker) -> Result<()> {
    let displayed = data.display();
    match extent {
        DeletionExtent::Cluster => print_line(&format!("deleting the cluster in {displayed}")),
        DeletionExtent::All => print_line(&format!("deleting {displayed}")),
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
    removal::delete_parts(data, extent, &mut listener)?;
    if extent == DeletionExtent::Cluster {
        marker.cluster = false;
        let written = marker.write(data);
        written.map_err(|error| RemovalError::Marker(error.into()))?;
        print_line(&format!(
            "deleted the cluster in {displayed}; {}",
            retained_text(data)
        ));
        return Ok(());
    }
    match removal::remove_root(data)? {
        remaining if remaining.is_empty() => print_line(&format!("deleted {displayed}")),
        remaining => print_line(&format!(
            "deleted all files of mainstay in {displayed}; other files are kept: {}",
            remaining.join(", ")
        )),
    }
    Ok(())
}

fn retained_text(data: &Path) -> String {
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

/// Prints a line of progress in the format of `up`.
fn step(started: Instant, text: &str) {
    let elapsed = started.elapsed().as_secs_f64();
    print_line(&format!("{elapsed:6.2}s {text}"));
}
