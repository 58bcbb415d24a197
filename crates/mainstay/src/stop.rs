//! The signals that end the program, and their effect on its pods.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use command_output::output::warn;
use node_agent::OnShutdown;
use serde::Deserialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The treatment of the pods on SIGTERM, and after the failure of a part of the program.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnStop {
    /// Pods stop, each within its grace period
    #[default]
    StopPods,
    /// Pods continue to run; the next start takes them over
    LeavePods,
}

impl From<OnStop> for OnShutdown {
    fn from(on_stop: OnStop) -> Self {
        match on_stop {
            OnStop::StopPods => Self::StopPods,
            OnStop::LeavePods => Self::LeavePods,
        }
    }
}

/// The signals that end the program.
pub struct Shutdown {
    raised: CancellationToken,
    on_stop: OnShutdown,
    pods_treatment: Arc<OnceLock<OnShutdown>>,
}

impl Shutdown {
    /// Listens for SIGINT, which stops the pods, and for SIGTERM, which applies `on_stop`; `on_stop` is
    /// `None` for a server without pods. A second signal ends the process at once, like a kill: nothing is
    /// lost, and the next `up` adopts the pods. SIGHUP, from a closed terminal, is handled as SIGTERM, except
    /// by a server in the background or under `nohup`.
    pub fn listen(on_stop: Option<OnStop>, in_background: bool) -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let mut hang_up = match hang_up_is_ignored() {
            true => None,
            false => Some(signal(SignalKind::hangup()).context("watch for SIGHUP")?),
        };
        let has_pods = on_stop.is_some();
        let on_stop = on_stop.unwrap_or_default().into();
        let raised = CancellationToken::new();
        let pods_treatment = Arc::new(OnceLock::new());
        let stop = Self {
            raised: raised.clone(),
            on_stop,
            pods_treatment: pods_treatment.clone(),
        };
        tokio::spawn(async move {
            loop {
                let pods = tokio::select! {
                    _ = interrupt.recv() => OnShutdown::StopPods,
                    _ = terminate.recv() => on_stop,
                    () = hung_up(hang_up.as_mut()) => match in_background {
                        true => continue,
                        false => on_stop,
                    },
                };
                if pods_treatment.set(pods).is_err() {
                    nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).ok();
                }
                match pods {
                    _ if !has_pods => {
                        warn("mainstay: stopping (a second signal ends the program at once)")
                    }
                    OnShutdown::StopPods => {
                        warn("mainstay: stopping the pods (a second signal leaves them running)");
                    }
                    OnShutdown::LeavePods => warn("mainstay: leaving the pods running"),
                }
                raised.cancel();
            }
        });
        Ok(stop)
    }

    /// Cancelled by the first signal.
    pub fn raised(&self) -> &CancellationToken {
        &self.raised
    }

    /// The treatment of the pods: that of the received signal, or the default.
    pub fn pods(&self) -> OnShutdown {
        self.pods_treatment.get().copied().unwrap_or(self.on_stop)
    }
}

/// Waits for the terminal to be closed.
async fn hung_up(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether the user wants the program to outlive the terminal, as `nohup` does.
fn hang_up_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores_hang_up(&status)
}

/// Reads `SigIgn`, which is a mask of signals in hexadecimal with signal 1 as the lowest bit
/// (proc_pid_status(5)).
fn ignores_hang_up(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings R7.
    #[test]
    fn nohup_is_respected() {
        assert!(ignores_hang_up("Name:\tx\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hang_up("Name:\tx\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hang_up(""));
    }
}
