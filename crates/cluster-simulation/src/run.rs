//! Runs worlds: each in a copy of this process and on a separate thread, so that all worlds start with equal memory.

use std::io::{Read, Write};
use std::panic;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nix::sys::wait::{WaitStatus, waitpid};

use crate::flawed_store::StoreFlaw;
use crate::trace::Summary;
use crate::{away, servers, system, trace, world};

/// An injected mistake that the checks must detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mutation {
    /// Nodes remove a pod's object while its instance still ends.
    HastyNode,
    /// Controllers delete by name only, whichever UID the object has.
    CarelessDeletes,
    /// Controllers treat an ordered set as a parallel set.
    NoOrder,
    /// Controllers ignore the partition.
    NoPartition,
    /// Controllers treat claims with the policy `Retain` as deletable.
    NoRetention,
    /// Controllers count the time of their own suspension as silence of the nodes.
    DeafWhilePaused,
    /// Instances do not end with the lease of their node.
    OutlivedLease,
    /// The deadline of a node's instances counts from the response to a renewal of its lease.
    AnsweredLease,
    /// The deadline of a node's instances is a time of the wall clock, which may be set back by hours.
    WallClockLease,
    /// The clocks of nodes are slower than the assumptions allow.
    SlowNodeClock,
    /// The clock of one of two servers is twice as fast as the other clock.
    FastClock,
    /// A server uses its last clock reading, also after its process was suspended.
    OldClock,
    /// Controllers and scheduler can use the API also after the end of their server's lead.
    UnguardedLead,
    /// Consistent reads of a server do not request the newest revision from etcd.
    NoReadIndex,
    /// A server reports a write without a response as executed.
    UnknownIsDone,
    /// A watch that moves to another server continues at the newest event.
    SkippedEvents,
}

impl Mutation {
    /// Whether the mistake is in the lease of nodes: only pods that fail over reveal it.
    pub fn is_of_lease(self) -> bool {
        matches!(
            self,
            Self::OutlivedLease | Self::AnsweredLease | Self::WallClockLease | Self::SlowNodeClock
        )
    }

    /// The mistake of the engine over etcd.
    pub fn store_flaw(self) -> Option<StoreFlaw> {
        match self {
            Self::NoReadIndex => Some(StoreFlaw::NoReadIndex),
            Self::UnknownIsDone => Some(StoreFlaw::UnknownIsDone),
            Self::SkippedEvents => Some(StoreFlaw::SkippedEvents),
            _ => None,
        }
    }

    /// Whether only several servers reveal the mistake.
    fn is_of_servers(self) -> bool {
        self.store_flaw().is_some()
            || matches!(self, Self::FastClock | Self::OldClock | Self::UnguardedLead)
    }

    /// The replaced text in the controllers' input.
    pub fn forgery(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::NoOrder => Some(("\"OrderedReady\"", "\"Parallel\"")),
            Self::NoPartition => Some(("\"partition\":", "\"ignored\":")),
            Self::NoRetention => Some(("\"whenScaled\":\"Retain\"", "\"whenScaled\":\"Delete\"")),
            _ => None,
        }
    }
}

/// The options for running worlds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Prints every event.
    pub prints_events: bool,
    /// The injected mistake.
    pub mutation: Option<Mutation>,
}

/// The number of worlds in each run of the tests: at least a hundred of them have faults of nodes.
pub const SEEDS: u64 = 180;

/// One of this number of worlds has several servers over etcd, and in another one the server is away.
const EVERY: u64 = 10;
const SERVERS_AT: u64 = 2;
const AWAY_AT: u64 = 7;

/// Maximum real time of one world; a longer world counts as stuck.
const REAL_SECONDS_MAX: u32 = 300;

/// A process that has executed all initialisation of a process (schemas and the like): its copies start quickly, and
/// with equal memory. It has one thread.
pub struct WarmProcess(());

impl WarmProcess {
    /// Initialises this process by running a world.
    pub fn new() -> Self {
        run_in_process(0, Options::default());
        Self(())
    }

    /// Starts a world in a copy of this process.
    ///
    /// # Errors
    ///
    /// The system cannot start another process.
    pub fn start(&self, seed: u64, options: Options) -> Result<RunningWorld> {
        let (reader, mut writer) = std::io::pipe().context("make a pipe")?;
        let child = system::in_copy(|| {
            nix::unistd::alarm::set(REAL_SECONDS_MAX);
            let summary = run_in_process(seed, options);
            // A failed write cannot be reported to any process.
            let _ = writer.write_all(encode(&summary).as_bytes());
        });
        let child = child.context("start a process")?;
        Ok(RunningWorld { child, reader })
    }
}

impl Default for WarmProcess {
    fn default() -> Self {
        Self::new()
    }
}

/// A world that lives in another process.
pub struct RunningWorld {
    child: nix::unistd::Pid,
    reader: std::io::PipeReader,
}

impl RunningWorld {
    /// Waits for the end of the world.
    ///
    /// # Errors
    ///
    /// The wait for the process fails.
    pub fn finish(mut self) -> Result<Summary> {
        let mut text = String::new();
        let read = self.reader.read_to_string(&mut text);
        read.context("read from a process")?;
        let status = waitpid(self.child, None).context("wait for a process")?;
        let mut summary = decode(&text);
        if status != WaitStatus::Exited(self.child, 0) {
            let how = format!("the world ended with {status:?}");
            summary.broken.push(how);
        }
        Ok(summary)
    }
}

/// Runs one world in this process, on a separate thread.
pub fn run_in_process(seed: u64, options: Options) -> Summary {
    let summary = run_on_thread(seed, move || async move {
        panic::set_hook(Box::new(|info| trace::broken(format!("panic: {info}"))));
        trace::begin(options.prints_events);
        match options.mutation {
            None if seed % EVERY == SERVERS_AT => servers::live(seed, None).await,
            None if seed % EVERY == AWAY_AT => away::live(seed).await,
            Some(mutation) if mutation.is_of_servers() => {
                servers::live(seed, options.mutation).await
            }
            mutation => world::live(seed, mutation).await,
        }
        trace::end()
    });
    summary.unwrap_or_else(|error| Summary {
        broken: vec![format!("{error:#}")],
        ..Summary::default()
    })
}

/// Runs `life` on a separate thread with simulated time and that seed; its spawned tasks end with it.
pub(crate) fn run_on_thread<T, F>(seed: u64, life: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let live = move || {
        system::begin(seed);
        // With I/O, the runtime waits for timers in `epoll_wait`, which the simulation replaces.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime")?;
        let outcome = runtime.block_on(async { life().await });
        // The rest of the world is dropped without trace lines.
        runtime.shutdown_timeout(Duration::ZERO);
        Ok(outcome)
    };
    let thread = std::thread::Builder::new()
        .stack_size(32 << 20)
        .spawn(live)
        .context("no thread")?;
    let joined = thread.join();
    joined.unwrap_or_else(|_| bail!("the world's thread failed"))
}

/// Pauses the whole machine: time passes without work. Due work is executed afterwards.
pub async fn suspend_machine(time: Duration) {
    system::advance(time);
    tokio::task::yield_now().await;
}

fn encode(summary: &Summary) -> String {
    let mut text = format!("{:016x} {}\n", summary.hash, summary.lines);
    for line in &summary.tail {
        text.push_str(&format!("T{}\n", line.replace('\n', " ")));
    }
    for line in &summary.broken {
        text.push_str(&format!("B{}\n", line.replace('\n', " ")));
    }
    text
}

fn decode(text: &str) -> Summary {
    let mut summary = Summary::default();
    let mut lines = text.lines();
    if let Some((hash, count)) = lines.next().and_then(|line| line.split_once(' ')) {
        summary.hash = u64::from_str_radix(hash, 16).unwrap_or_default();
        summary.lines = count.parse().unwrap_or_default();
    }
    for line in lines {
        if let Some(line) = line.strip_prefix('T') {
            summary.tail.push(line.to_owned());
        } else if let Some(line) = line.strip_prefix('B') {
            summary.broken.push(line.to_owned());
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_worlds_have_faults_of_nodes() {
        let of_nodes = (0..SEEDS).filter(|seed| match seed % EVERY {
            SERVERS_AT | AWAY_AT => true,
            _ => world::has_faults_of_nodes(*seed),
        });
        let of_nodes = of_nodes.count();
        assert!(of_nodes >= 100, "{of_nodes} of {SEEDS}");
    }
}
