//! Who may pull now: so many pulls at a time, fewer from one registry, and those from which next
//! to nothing comes are not counted.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use image_store::Progress;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::limits::{PULL_TURN_BYTES_MIN, PULL_TURN_LOOK, PULLS_MAX, PULLS_OF_ONE_REGISTRY_MAX};

/// The turns of a node. Whoever waits is served in order, but nobody waits for a registry that is
/// not its own: those who have to wait for theirs do so before they wait for all.
pub struct PullTurns {
    all: Arc<Semaphore>,
    registries: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

/// May pull while it has this.
struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_registry: OwnedSemaphorePermit,
}

impl Default for PullTurns {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(PULLS_MAX)),
            registries: Mutex::default(),
        }
    }
}

impl PullTurns {
    /// Does a pull from a registry when it is its turn. One that brings too little for a while
    /// goes on without it, so that others need not wait for a slow registry.
    pub async fn run<T>(
        &self,
        registry: &str,
        progress: &Progress,
        pull: impl Future<Output = T>,
    ) -> Result<T, AcquireError> {
        let mut turn = Some(self.take(registry).await?);
        let mut pull = pin!(pull);
        loop {
            let before = progress.bytes();
            tokio::select! {
                pulled = &mut pull => return Ok(pulled),
                () = sleep(PULL_TURN_LOOK), if turn.is_some() => {
                    if progress.bytes().saturating_sub(before) < PULL_TURN_BYTES_MIN {
                        tracing::info!(registry, "a slow pull leaves its turn to others");
                        turn = None;
                    }
                }
            }
        }
    }

    async fn take(&self, registry: &str) -> Result<Turn, AcquireError> {
        let own = self.of(registry);
        Ok(Turn {
            _of_registry: own.acquire_owned().await?,
            _of_all: Arc::clone(&self.all).acquire_owned().await?,
        })
    }

    fn of(&self, registry: &str) -> Arc<Semaphore> {
        let mut all = self
            .registries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Those that nobody waits for or pulls from are as new.
        all.retain(|_, turns| Arc::strong_count(turns) > 1);
        let turns = all.entry(registry.to_owned());
        let new = || Arc::new(Semaphore::new(PULLS_OF_ONE_REGISTRY_MAX));
        Arc::clone(turns.or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::task::JoinHandle;

    use super::*;

    fn hang(turns: &Arc<PullTurns>, registry: &str, progress: Progress) -> JoinHandle<()> {
        let (turns, registry) = (Arc::clone(turns), registry.to_owned());
        tokio::spawn(async move {
            turns.run(&registry, &progress, pending::<()>()).await.ok();
        })
    }

    /// Lets everybody come as far as it gets.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// A pull that goes on as fast as it has to.
    fn lively() -> (Progress, JoinHandle<()>) {
        let progress = Progress::default();
        let counted = progress.clone();
        let task = tokio::spawn(async move {
            loop {
                sleep(PULL_TURN_LOOK / 4).await;
                counted.add(PULL_TURN_BYTES_MIN);
            }
        });
        (progress, task)
    }

    #[tokio::test(start_paused = true)]
    async fn one_registry_never_takes_all_turns() {
        let turns = Arc::new(PullTurns::default());
        let (progress, going) = lively();
        let hung: Vec<_> = (0..20)
            .map(|_| hang(&turns, "a", progress.clone()))
            .collect();
        settle().await;
        let free = PULLS_MAX - PULLS_OF_ONE_REGISTRY_MAX;
        assert_eq!(turns.all.available_permits(), free);
        let other = turns.run("b", &Progress::default(), ready(7)).await;
        assert_eq!(other.unwrap(), 7);
        // They keep theirs as long as something comes.
        sleep(PULL_TURN_LOOK * 10).await;
        assert_eq!(turns.all.available_permits(), free);
        for task in &hung {
            task.abort();
        }
        settle().await;
        assert_eq!(turns.all.available_permits(), PULLS_MAX);
        turns.of("b");
        assert_eq!(turns.registries.lock().unwrap().len(), 1);
        going.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn slow_pulls_of_however_many_registries_leave_their_turns() {
        let turns = Arc::new(PullTurns::default());
        let hung: Vec<_> = (0..20)
            .map(|number| hang(&turns, &format!("r{number}"), Progress::default()))
            .collect();
        settle().await;
        assert_eq!(turns.all.available_permits(), 0);
        let progress = Progress::default();
        let other = turns.run("other", &progress, async {
            sleep(Duration::from_secs(3600)).await;
            7
        });
        // It comes to its end, and so have those who leave their turns.
        assert_eq!(other.await.unwrap(), 7);
        assert_eq!(turns.all.available_permits(), PULLS_MAX);
        assert!(hung.iter().all(|task| !task.is_finished()));
        for task in &hung {
            task.abort();
        }
    }
}
