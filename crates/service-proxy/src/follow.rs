//! Values that are computed from all objects of a cache.

use controller_framework::Cache;
use process_telemetry::Component;
use tokio::sync::watch;

/// A receiver of the value that `read` computes; the default value until the objects are listed.
pub(crate) fn follow<K, T>(
    objects: Cache<K>,
    component: &Component,
    read: impl Fn(&Cache<K>) -> T + Send + Sync + 'static,
) -> watch::Receiver<T>
where
    K: Send + Sync + 'static,
    T: Default + PartialEq + Send + Sync + 'static,
{
    let (sender, value) = watch::channel(T::default());
    let shutdown = component.shutdown.clone();
    tokio::spawn(async move {
        let follow = async {
            let mut changes = objects.subscribe();
            if !objects.wait_synced().await {
                return;
            }
            loop {
                while changes.ready().is_some() {}
                let now = read(&objects);
                sender.send_if_modified(|current| {
                    let is_new = *current != now;
                    *current = now;
                    is_new
                });
                if changes.next().await.is_none() {
                    return;
                }
            }
        };
        shutdown.run_until_cancelled(follow).await;
    });
    value
}
