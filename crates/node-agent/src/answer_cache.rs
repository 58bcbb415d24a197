//! A cache of one response. The cached response serves all requests of a few seconds.

use jiff::SignedDuration;
use pod_lifecycle::Instant;
use tokio::sync::Mutex;

/// Lifetime of a response. CPU and memory usage are sampled less often.
const CACHE_TTL: SignedDuration = SignedDuration::from_secs(5);

/// The newest response, and the time of its request.
#[derive(Debug)]
pub struct CachedAnswer<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for CachedAnswer<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> CachedAnswer<T> {
    /// The cached response, or a new one. Concurrent requests share one computation.
    ///
    /// # Errors
    /// The error of the computation; nothing is cached then.
    pub async fn get<E>(
        &self,
        now: impl Fn() -> Instant,
        make: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut kept = self.0.lock().await;
        let asked = now();
        if let Some((at, answer)) = &*kept
            && asked.since(*at) < CACHE_TTL
        {
            return Ok(answer.clone());
        }
        let answer = make.await?;
        *kept = Some((asked, answer.clone()));
        Ok(answer)
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
    async fn an_answer_is_made_anew_after_a_few_seconds() {
        let made = Cell::new(0);
        let kept = CachedAnswer::default();
        let ask = async |second: i64| {
            let at = Instant::reading(Timestamp::from_second(second).unwrap());
            let make = async {
                made.set(made.get() + 1);
                Ok::<_, ()>(made.get())
            };
            kept.get(|| at, make).await
        };
        assert_eq!(ask(100).await, Ok(1));
        assert_eq!(ask(104).await, Ok(1));
        assert_eq!(ask(105).await, Ok(2));
        assert_eq!(ask(109).await, Ok(2));
        assert_eq!(ask(200).await, Ok(3));
    }

    #[tokio::test]
    async fn who_asks_meanwhile_waits_and_a_failure_is_not_kept() {
        let kept = CachedAnswer::default();
        let at = || Instant::reading(Timestamp::from_second(7).unwrap());
        let failed = kept.get(at, async { Err::<u8, _>("no") }).await;
        assert_eq!(failed, Err("no"));
        let slow = kept.get(at, async {
            tokio::task::yield_now().await;
            Ok::<_, &str>(1)
        });
        let (first, second) = tokio::join!(slow, kept.get(at, async { Ok::<_, &str>(2) }));
        assert_eq!((first, second), (Ok(1), Ok(1)));
    }
}
