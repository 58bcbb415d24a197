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
    pub fn set_still(&self, is_still: bool) {
        self.0.send_replace(is_still);
    }

    /// Waits until the process is suspended, or until it is not.
    pub async fn is_still(&self, is_still: bool) {
        let mut now = self.0.subscribe();
        // The sender lives as long as this value.
        let _ = now.wait_for(|now| *now == is_still).await;
    }

    /// Runs work of the process. Timers that expire during a suspension fire when the process continues.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        loop {
            self.is_still(false).await;
            tokio::select! {
                biased;
                () = self.is_still(true) => {}
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

    #[tokio::test(start_paused = true)]
    async fn work_stands_still_with_its_process() {
        let process = Process::default();
        let start = Instant::now();
        let other = process.clone();
        let stopped = async move {
            sleep(Duration::from_secs(1)).await;
            other.set_still(true);
            sleep(Duration::from_secs(20)).await;
            other.set_still(false);
        };
        let work = process.run(async {
            let mut looks = 0;
            while start.elapsed() < Duration::from_secs(30) {
                sleep(Duration::from_millis(100)).await;
                looks += 1;
            }
            looks
        });
        let (looks, ()) = tokio::join!(work, stopped);
        assert!((98..=102).contains(&looks), "{looks}");
    }
}
