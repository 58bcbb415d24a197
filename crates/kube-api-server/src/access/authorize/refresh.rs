//! Watches of roles and bindings that keep the RBAC index current.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::select_all;
use json_tree::Value;
use mvcc_store::{EventKind, KeyValue, Range, Revision, Store, StoreError, WatchEvents};
use tokio_util::sync::CancellationToken;

use super::{Index, Rbac};
use crate::catalog::registry::{Registry, Resource, end_of};

/// Objects that are decoded in one poll of the task.
const AT_ONCE: usize = 16;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The resources in the index: API group resource, and true if the resource is a binding.
const SOURCES: [(&str, bool); 4] = [
    ("clusterroles", false),
    ("roles", false),
    ("clusterrolebindings", true),
    ("rolebindings", true),
];

struct Source {
    resource: Arc<Resource>,
    binding: bool,
}

/// Applies changes to the index until `stop`. `filled` is the revision at which the index was filled.
pub(crate) async fn run(
    rbac: Arc<Rbac>,
    store: Arc<dyn Store>,
    sources: Sources,
    filled: Revision,
    stop: CancellationToken,
) {
    let mut filled = Some(filled);
    loop {
        let watching = follow(&rbac, store.as_ref(), &sources, filled.take());
        tokio::select! {
            () = stop.cancelled() => return,
            result = watching => {
                match result {
                    Err(StoreError::Closed) => return,
                    Err(error) => tracing::warn!(%error, "watch of roles ended; reading them again"),
                    Ok(()) => {}
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The RBAC resources among the served resources.
pub(crate) struct Sources(Vec<Source>);

impl Sources {
    pub(crate) fn of(registry: &Registry) -> Self {
        let sources = SOURCES.iter().filter_map(|(plural, binding)| {
            let resource = registry.any_version(GROUP, plural)?;
            Some(Source {
                resource,
                binding: *binding,
            })
        });
        Self(sources.collect())
    }
}

/// Reads all RBAC objects once; returns the revision of the read.
pub(crate) async fn fill(
    rbac: &Rbac,
    store: &dyn Store,
    sources: &Sources,
) -> Result<Revision, StoreError> {
    let mut index = Index::default();
    let revision = store.current_revision();
    for source in &sources.0 {
        let start = source.resource.prefix("");
        let end = Some(end_of(&start));
        let range = Range {
            start,
            end,
            revision: Some(revision),
            ..Range::default()
        };
        for items in store.range(range).await?.items.chunks(AT_ONCE) {
            items.iter().for_each(|item| put(&mut index, source, item));
            tokio::task::yield_now().await;
        }
    }
    rbac.write(|current| *current = index);
    rbac.synced.store(true, Ordering::Release);
    Ok(revision)
}

async fn follow(
    rbac: &Rbac,
    store: &dyn Store,
    sources: &Sources,
    filled: Option<Revision>,
) -> Result<(), StoreError> {
    let revision = match filled {
        Some(revision) => revision,
        None => fill(rbac, store, sources).await?,
    };
    let mut streams = Vec::new();
    for (at, source) in sources.0.iter().enumerate() {
        let stream = store.watch(source.resource.prefix(""), Revision(revision.0 + 1))?;
        streams.push(stream.map(move |events| (at, events)).boxed());
    }
    let mut changes = select_all(streams);
    while let Some((at, events)) = changes.next().await {
        let WatchEvents::Events(events) = events? else {
            continue;
        };
        let source = &sources.0[at];
        rbac.write(|index| {
            for event in &events {
                match &event.kind {
                    EventKind::Put(item) => put(index, source, item),
                    EventKind::Delete => remove(index, source, &event.key),
                }
            }
        });
    }
    Ok(())
}

fn put(index: &mut Index, source: &Source, item: &KeyValue) {
    let (namespace, name) = source.resource.names(&item.key);
    // An unreadable object grants nothing.
    let object: Value = serde_json::from_slice(&item.value).unwrap_or_default();
    if source.binding {
        index.put_binding(namespace, name, &object);
    } else {
        index.put_role(namespace, name, &object);
    }
}

fn remove(index: &mut Index, source: &Source, key: &[u8]) {
    let (namespace, name) = source.resource.names(key);
    if source.binding {
        index.remove_binding(namespace, name);
    } else {
        index.remove_role(namespace, name);
    }
}
