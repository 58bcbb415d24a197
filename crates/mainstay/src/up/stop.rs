//! How the program is told to end, and what becomes of its pods then.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use node_agent::OnShutdown;
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What becomes of the pods on SIGTERM, and when a part of the program has failed.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnStop {
    /// They are stopped, each within its grace period
    #[default]
    StopPods,
    /// They go on; the next start takes them over as they are
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

/// The end of the program, once it is told to.
pub struct Stop {
    raised: CancellationToken,
    on_stop: OnStop,
    told: Arc<OnceLock<OnShutdown>>,
}

impl Stop {
    /// Listens for SIGINT, which stops the pods, and SIGTERM, with which `on_stop` is done. A second
    /// signal ends the process at once, as if it had been killed: nothing is lost, the next `up`
    /// takes over.
    pub fn listen(on_stop: OnStop) -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let raised = CancellationToken::new();
        let told = Arc::new(OnceLock::new());
        let stop = Self {
            raised: raised.clone(),
            on_stop,
            told: told.clone(),
        };
        tokio::spawn(async move {
            loop {
                let pods = tokio::select! {
                    _ = interrupt.recv() => OnShutdown::StopPods,
                    _ = terminate.recv() => on_stop.into(),
                };
                if told.set(pods).is_err() {
                    nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).ok();
                }
                match pods {
                    OnShutdown::StopPods => {
                        eprintln!("mainstay: stopping the pods (once more to leave them running)");
                    }
                    OnShutdown::LeavePods => eprintln!("mainstay: leaving the pods running"),
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

    /// What becomes of the pods: as was told, or as is set where nobody has told.
    pub fn pods(&self) -> OnShutdown {
        self.told.get().copied().unwrap_or(self.on_stop.into())
    }
}
