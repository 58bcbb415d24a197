//! A cache of one response. The cached response serves all requests of a few seconds.

use jiff::SignedDuration;
use pod_lifecycle::Instant;
use tokio::sync::Mutex;

/// Lifetime of a response. CPU and memory usage are sampled less often.
const CACHE_TTL: SignedDuration = SignedDuration::from_secs(5);

/// The newest response, and the time of its request.
#[derive(Debug)]
pub struct CachedResponse<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for CachedResponse<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> CachedResponse<T> {
    /// The cached response, or a new one. Concurrent requests share one computation.
    ///
    /// # Errors
    /// The error of the computation; nothing is cached then.
    pub async fn get<E>(
        &self,
        now: impl Fn() -> Instant,
        compute: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut cached = self.0.lock().await;
        let requested_at = now();
        if let Some((at, response)) = &*cached
            && requested_at.since(*at) < CACHE_TTL
        {
            return Ok(response.clone());
        }
        let response = compute.await?;
        *cached = Some((requested_at, response.clone()));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use jiff::Timestamp;

    use super::*;

    /// findings C8: the summary reads all pods and their file systems, so it is not computed for each
    /// request.
    #[tokio::test]
    async fn a_response_is_computed_anew_after_a_few_seconds() {
        let computations = Cell::new(0);
        let cache = CachedResponse::default();
        let ask = async |second: i64| {
            let at = Instant::reading(Timestamp::from_second(second).unwrap());
            let compute = async {
                computations.set(computations.get() + 1);
                Ok::<_, ()>(computations.get())
            };
            cache.get(|| at, compute).await
        };
        assert_eq!(ask(100).await, Ok(1));
        assert_eq!(ask(104).await, Ok(1));
        assert_eq!(ask(105).await, Ok(2));
        assert_eq!(ask(109).await, Ok(2));
        assert_eq!(ask(200).await, Ok(3));
    }

    #[tokio::test]
    async fn concurrent_requests_wait_and_a_failure_is_not_cached() {
        let cache = CachedResponse::default();
        let at = || Instant::reading(Timestamp::from_second(7).unwrap());
        let failed = cache.get(at, async { Err::<u8, _>("no") }).await;
        assert_eq!(failed, Err("no"));
        let slow = cache.get(at, async {
            tokio::task::yield_now().await;
            Ok::<_, &str>(1)
        });
        let (first, second) = tokio::join!(slow, cache.get(at, async { Ok::<_, &str>(2) }));
        assert_eq!((first, second), (Ok(1), Ok(1)));
    }
}
