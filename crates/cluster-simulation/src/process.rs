//! The process of a server, which may be suspended as by SIGSTOP: its work stops, while time, its clients and the store
//! continue.

use tokio::sync::watch;

/// A process. Clones are one process.
#[derive(Clone)]
pub struct Process(watch::Sender<bool>);

impl Default for Process {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Process {
    /// Suspends or continues the process.
    pub fn set_suspended(&self, is_suspended: bool) {
        self.0.send_replace(is_suspended);
    }

    /// Waits until the process is suspended, or until the process is not suspended.
    pub async fn wait_for_suspended(&self, is_suspended: bool) {
        let mut now = self.0.subscribe();
        // The sender lives as long as this value.
        let _ = now.wait_for(|now| *now == is_suspended).await;
    }

    /// Runs work of the process. Timers that expire during a suspension fire when the process continues.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        loop {
            self.wait_for_suspended(false).await;
            tokio::select! {
                biased;
                () = self.wait_for_suspended(true) => {}
                done = &mut work => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::run::run_on_thread;

    #[test]
    fn work_is_suspended_with_its_process() {
        let polls = run_on_thread(1, polls_of_a_suspended_process).unwrap();
        assert!((98..=102).contains(&polls), "{polls}");
    }

    async fn polls_of_a_suspended_process() -> u32 {
        let process = Process::default();
        let start = Instant::now();
        let other = process.clone();
        let stopped = async move {
            sleep(Duration::from_secs(1)).await;
            other.set_suspended(true);
            sleep(Duration::from_secs(20)).await;
            other.set_suspended(false);
        };
        let work = process.run(async {
            let mut polls = 0;
            while start.elapsed() < Duration::from_secs(30) {
                sleep(Duration::from_millis(100)).await;
                polls += 1;
            }
            polls
        });
        let (polls, ()) = tokio::join!(work, stopped);
        polls
    }
}
