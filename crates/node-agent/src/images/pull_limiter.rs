//! The limit of concurrent image pulls: in total and for each registry. A stalled pull does not count.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use host_kernel::keyed_locks::KeyedLocks;
use image_store::PullProgress;
use process_telemetry::refusals::{self, Budget};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::limits::{PULL_STALL_BYTES_MIN, PULL_STALL_CHECK, PULLS_MAX, PULLS_OF_ONE_REGISTRY_MAX};

/// The permits of a node for image pulls. Waiting pulls get permits in their order. A pull waits for the
/// permit of its registry before it waits for the total, so a slow registry does not delay pulls from other
/// registries.
pub struct PullLimiter {
    all: Arc<Semaphore>,
    registries: KeyedLocks<Semaphore>,
}

/// A permit for one pull, until it is dropped.
struct PullPermit {
    _of_all: OwnedSemaphorePermit,
    _of_registry: OwnedSemaphorePermit,
}

impl Default for PullLimiter {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(PULLS_MAX)),
            registries: KeyedLocks::default(),
        }
    }
}

impl PullLimiter {
    /// Runs a pull as soon as it has a permit. A stalled pull continues without its permit, so that other
    /// pulls do not wait for a slow registry.
    pub async fn run<T>(
        &self,
        registry: &str,
        progress: &PullProgress,
        pull: impl Future<Output = T>,
    ) -> Result<T, AcquireError> {
        let mut permit = Some(self.permit(registry).await?);
        let mut pull = pin!(pull);
        loop {
            let before = progress.bytes();
            tokio::select! {
                pulled = &mut pull => return Ok(pulled),
                () = sleep(PULL_STALL_CHECK), if permit.is_some() => {
                    if progress.bytes().saturating_sub(before) < PULL_STALL_BYTES_MIN {
                        tracing::info!(registry, "a stalled pull gives up its permit");
                        permit = None;
                    }
                }
            }
        }
    }

    async fn permit(&self, registry: &str) -> Result<PullPermit, AcquireError> {
        let registry_permits = self.registry_permits(registry);
        if registry_permits.available_permits() == 0 || self.all.available_permits() == 0 {
            refusals::count(Budget::ImagePulls);
        }
        Ok(PullPermit {
            _of_registry: registry_permits.acquire_owned().await?,
            _of_all: Arc::clone(&self.all).acquire_owned().await?,
        })
    }

    fn registry_permits(&self, registry: &str) -> Arc<Semaphore> {
        let new = || Semaphore::new(PULLS_OF_ONE_REGISTRY_MAX);
        self.registries.get_or(registry, new)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::task::JoinHandle;

    use super::*;

    fn hang(limiter: &Arc<PullLimiter>, registry: &str, progress: PullProgress) -> JoinHandle<()> {
        let (limiter, registry) = (Arc::clone(limiter), registry.to_owned());
        tokio::spawn(async move {
            limiter
                .run(&registry, &progress, pending::<()>())
                .await
                .ok();
        })
    }

    /// Runs all tasks until each of them waits.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// A pull that continuously receives data, and the task that sends the data.
    fn lively() -> (PullProgress, JoinHandle<()>) {
        let progress = PullProgress::default();
        let counted = progress.clone();
        let task = tokio::spawn(async move {
            loop {
                sleep(PULL_STALL_CHECK / 4).await;
                counted.add(PULL_STALL_BYTES_MIN);
            }
        });
        (progress, task)
    }

    #[tokio::test(start_paused = true)]
    async fn one_registry_never_takes_all_permits() {
        let limiter = Arc::new(PullLimiter::default());
        let (progress, going) = lively();
        let before = refusals::counted(Budget::ImagePulls);
        let hung: Vec<_> = (0..20)
            .map(|_| hang(&limiter, "a", progress.clone()))
            .collect();
        settle().await;
        // Other tests also count pulls.
        assert!(
            refusals::counted(Budget::ImagePulls) >= before + 20 - PULLS_OF_ONE_REGISTRY_MAX as u64
        );
        let free = PULLS_MAX - PULLS_OF_ONE_REGISTRY_MAX;
        assert_eq!(limiter.all.available_permits(), free);
        let result = limiter.run("b", &PullProgress::default(), ready(7)).await;
        assert_eq!(result.unwrap(), 7);
        // Pulls keep their permits while data arrives.
        sleep(PULL_STALL_CHECK * 10).await;
        assert_eq!(limiter.all.available_permits(), free);
        for task in &hung {
            task.abort();
        }
        settle().await;
        assert_eq!(limiter.all.available_permits(), PULLS_MAX);
        let _permits = limiter.registry_permits("b");
        assert_eq!(limiter.registries.len(), 1);
        going.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn slow_pulls_of_however_many_registries_give_up_their_permits() {
        let limiter = Arc::new(PullLimiter::default());
        let hung: Vec<_> = (0..20)
            .map(|number| hang(&limiter, &format!("r{number}"), PullProgress::default()))
            .collect();
        settle().await;
        assert_eq!(limiter.all.available_permits(), 0);
        let progress = PullProgress::default();
        let result = limiter.run("other", &progress, async {
            sleep(Duration::from_secs(3600)).await;
            7
        });
        // The pull completes, and so do the pulls that lost their permits.
        assert_eq!(result.await.unwrap(), 7);
        assert_eq!(limiter.all.available_permits(), PULLS_MAX);
        assert!(hung.iter().all(|task| !task.is_finished()));
        for task in &hung {
            task.abort();
        }
    }
}
