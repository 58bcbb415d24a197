//! Services with their EndpointSlices, for consumers that process one Service at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::{Cache, Changes, Index, ObjectChange, object_key};
use object_model::ObjectKey;

/// The changed Services, including Services with changed EndpointSlices. Initially all Services count as changed.
pub struct ServiceChanges {
    services: Cache<Service>,
    slices: Index<EndpointSlice>,
    of_services: Changes<Service>,
    of_slices: Changes<EndpointSlice>,
    changed: BTreeSet<ObjectKey>,
}

/// The current state of a Service.
#[derive(Clone, Debug)]
pub struct ServiceState {
    /// Namespace and name of the Service.
    pub key: ObjectKey,
    /// The Service; `None` if it is deleted or not created yet.
    pub service: Option<Arc<Service>>,
    /// The EndpointSlices of the Service. They may exist before the Service and after it.
    pub slices: Vec<Arc<EndpointSlice>>,
}

impl ServiceChanges {
    /// Subscribes to Services and to their EndpointSlices.
    pub fn new(services: Cache<Service>, slices: &Cache<EndpointSlice>) -> Self {
        Self {
            of_services: services.subscribe(),
            of_slices: slices.subscribe(),
            slices: slices
                .index(|slice| service_of(slice).iter().map(ObjectKey::to_string).collect()),
            services,
            changed: BTreeSet::new(),
        }
    }

    /// Waits for a change. Never returns after the caches have ended.
    pub async fn wait(&mut self) {
        tokio::select! {
            Some(change) = self.of_services.next() => self.note_service(&change),
            Some(change) = self.of_slices.next() => self.note_slice(&change),
            else => std::future::pending().await,
        }
    }

    /// Marks all Services as changed.
    pub fn note_all(&mut self) {
        let all = self.services.list();
        self.changed
            .extend(all.iter().map(|service| object_key(service.as_ref())));
    }

    /// Removes the changed Services from the set and returns their state, sorted by namespace and name.
    pub fn take(&mut self) -> Vec<ServiceState> {
        while let Some(change) = self.of_services.ready() {
            self.note_service(&change);
        }
        while let Some(change) = self.of_slices.ready() {
            self.note_slice(&change);
        }
        let changed = std::mem::take(&mut self.changed).into_iter();
        changed
            .map(|key| ServiceState {
                service: self.services.get_key(&key),
                slices: self.slices.get(&key.to_string()),
                key,
            })
            .collect()
    }

    fn note_service(&mut self, change: &ObjectChange<Service>) {
        self.changed.insert(object_key(change.object().as_ref()));
    }

    /// Both Services are marked, because a slice may move from one Service to another.
    fn note_slice(&mut self, change: &ObjectChange<EndpointSlice>) {
        self.changed.extend(service_of(change.object()));
        if let ObjectChange::Applied(_, Some(before)) = change {
            self.changed.extend(service_of(before));
        }
    }
}

/// The Service that a slice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let (namespace, name) = resource_kinds::discovery::service_of(slice)?;
    Some(ObjectKey::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures::channel::mpsc::unbounded;
    use json_tree::json;
    use kube_api_client::Event;

    use super::*;

    /// A version that no other object of the test has.
    fn version() -> String {
        static LAST: AtomicU64 = AtomicU64::new(0);
        (LAST.fetch_add(1, Ordering::Relaxed) + 1).to_string()
    }

    fn service(name: &str) -> Service {
        let metadata = json!({"namespace": "default", "name": name, "uid": name,
            "resourceVersion": version()});
        json_tree::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn slice(name: &str, service: &str) -> EndpointSlice {
        let labels = json!({"kubernetes.io/service-name": service});
        let metadata = json!({"namespace": "default", "name": name, "uid": name,
            "resourceVersion": version(), "labels": labels});
        json_tree::from_value(json!({
            "metadata": metadata, "addressType": "IPv4", "endpoints": []}))
        .unwrap()
    }

    /// `web 1 slices`, or `web gone 1 slices`.
    async fn taken(changes: &mut ServiceChanges) -> Vec<String> {
        changes.wait().await;
        let printed = |state: ServiceState| {
            let suffix = if state.service.is_none() { " gone" } else { "" };
            format!("{}{suffix} {} slices", state.key.name, state.slices.len())
        };
        changes.take().into_iter().map(printed).collect()
    }

    #[tokio::test]
    async fn a_service_changes_with_itself_and_with_its_slices() {
        let (to_services, services) = unbounded();
        let (to_slices, slices) = unbounded();
        let (services, slices) = (Cache::from_events(services), Cache::from_events(slices));
        for event in [
            Event::Init,
            Event::InitApply(service("web")),
            Event::InitApply(service("db")),
            Event::InitDone,
        ] {
            to_services.unbounded_send(event).unwrap();
        }
        let first = Event::InitApply(slice("one", "web"));
        for event in [Event::Init, first, Event::InitDone] {
            to_slices.unbounded_send(event).unwrap();
        }
        assert!(services.wait_synced().await && slices.wait_synced().await);
        let mut changes = ServiceChanges::new(services, &slices);
        assert_eq!(taken(&mut changes).await, ["db 0 slices", "web 1 slices"]);
        let passed_on = Event::Apply(slice("one", "db"));
        to_slices.unbounded_send(passed_on).unwrap();
        assert_eq!(taken(&mut changes).await, ["db 1 slices", "web 0 slices"]);
        to_services
            .unbounded_send(Event::Delete(service("db")))
            .unwrap();
        assert_eq!(taken(&mut changes).await, ["db gone 1 slices"]);
        assert!(changes.take().is_empty());
    }
}
