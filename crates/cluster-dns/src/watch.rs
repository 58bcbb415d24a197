//! The watch of Services, EndpointSlices and namespaces, which updates the zone.

use std::sync::Arc;

use controller_framework::{Cache, ServiceChanges, ServiceState, WatchConfig};
use dns_records::{Settings, Zone};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_api_client::{Api, Client, ListParams, PartialObjectMeta};
use process_telemetry::Component;
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::resolve::CurrentZone;
use crate::zone_file::ZoneFile;

const FORBIDDEN: u16 = 403;

/// The caches from which the zone is built.
#[derive(Clone)]
pub(crate) struct ZoneCaches {
    pub(crate) namespaces: Cache<PartialObjectMeta<Namespace>>,
    pub(crate) services: Cache<Service>,
    pub(crate) slices: Cache<EndpointSlice>,
}

impl ZoneCaches {
    /// Waits for Services and slices, but not for namespaces: without namespaces all names of Services and pods are
    /// known.
    async fn wait_synced(&self) -> bool {
        self.services.wait_synced().await && self.slices.wait_synced().await
    }
}

/// Watches namespaces if the watch is allowed. Namespaces only distinguish an absent namespace from an empty namespace;
/// a namespace with a Service is known in any case.
pub(crate) async fn watch_namespaces(
    client: Client,
    component: &Component,
) -> Cache<PartialObjectMeta<Namespace>> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces
        .list_metadata(&ListParams::default().limit(1))
        .await
    {
        Err(kube_api_client::Error::Api(status)) if status.code == FORBIDDEN => {
            tracing::info!("namespaces may not be watched; only those with Services are known");
            Cache::from_events(futures::stream::pending())
        }
        _ => Cache::spawn(Api::all(client), WatchConfig::default(), component.clone()),
    }
}

/// Updates the zone on each change, until `shutdown`. While no API server responds, the zone has the contents of the
/// file.
pub(crate) async fn follow(
    watched: ZoneCaches,
    settings: Settings,
    zone: CurrentZone,
    mut zone_file: Option<ZoneFile>,
    shutdown: CancellationToken,
) {
    let publish_stored_zone = async {
        tokio::time::sleep(limits::STORED_ZONE_DELAY).await;
        if let Some(zone_file) = &zone_file
            && let Some(last) = zone_file.read(settings.clone()).await
        {
            tracing::warn!(
                names = last.name_count(),
                "no API server answers: names are answered as they were"
            );
            zone.set(last);
        }
        std::future::pending().await
    };
    let synced = tokio::select! {
        biased;
        () = shutdown.cancelled() => false,
        synced = watched.wait_synced() => synced,
        () = publish_stored_zone => false,
    };
    if !synced {
        return;
    }
    let mut namespaces = watched.namespaces.subscribe();
    let mut services = ServiceChanges::new(watched.services, &watched.slices);
    // The first zone is built before it is published.
    let mut first = Zone::new(settings);
    list_namespaces(&mut first, &watched.namespaces);
    let states = services.take();
    states.iter().for_each(|state| replace(&mut first, state));
    if let Some(zone_file) = &mut zone_file {
        zone_file.record(&states);
    }
    drop(states);
    tracing::debug!(names = first.name_count(), "zone built");
    zone.set(first);
    loop {
        let mut listed = false;
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = namespaces.next() => listed = true,
            () = services.wait() => {}
            () = due(zone_file.as_ref()) => {
                if let Some(zone_file) = &mut zone_file {
                    zone_file.write();
                }
                continue;
            }
        }
        tokio::time::sleep(limits::DEBOUNCE).await;
        while namespaces.ready().is_some() {
            listed = true;
        }
        if listed {
            zone.change(|zone| list_namespaces(zone, &watched.namespaces));
        }
        let states = services.take();
        if let Some(zone_file) = &mut zone_file {
            zone_file.record(&states);
        }
        for chunk in states.chunks(limits::SERVICES_AT_ONCE) {
            zone.change(|zone| chunk.iter().for_each(|state| replace(zone, state)));
        }
    }
}

/// Waits until the next write to the file is due.
async fn due(zone_file: Option<&ZoneFile>) {
    match zone_file.and_then(ZoneFile::due) {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn list_namespaces(zone: &mut Zone, namespaces: &Cache<PartialObjectMeta<Namespace>>) {
    let namespaces = namespaces.list();
    let names = namespaces
        .iter()
        .filter_map(|namespace| namespace.metadata.name.as_deref());
    zone.list_namespaces(names);
}

fn replace(zone: &mut Zone, state: &ServiceState) {
    let slices: Vec<&EndpointSlice> = state.slices.iter().map(Arc::as_ref).collect();
    let service = state.service.as_deref();
    zone.replace(&state.key.namespace, &state.key.name, service, &slices);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dns_records::{Kind, LookupResult};
    use futures::channel::mpsc::unbounded;
    use kube_api_client::Event;
    use object_model::ObjectKey;
    use serde_json::json;
    use tokio::time::{Instant, sleep};

    use super::*;

    fn slice(ready: bool) -> EndpointSlice {
        let endpoint = json!({ "addresses": ["10.244.0.7"], "conditions": { "ready": ready } });
        let labels = json!({ "kubernetes.io/service-name": "web" });
        let version = if ready { "2" } else { "1" };
        let metadata = json!({ "namespace": "default", "name": "web-1", "uid": "web-1",
            "resourceVersion": version, "labels": labels });
        serde_json::from_value(json!({ "metadata": metadata, "addressType": "IPv4",
            "ports": [{ "port": 80 }], "endpoints": [endpoint] }))
        .expect("a slice")
    }

    fn is_found(zone: &CurrentZone) -> bool {
        let mut exists = false;
        zone.change(|zone| {
            let result = zone.lookup("web.default.svc.cluster.local", Kind::A);
            exists = matches!(result, LookupResult::Records { .. });
        });
        exists
    }

    /// The debounce is the only delay between a slice and the zone. The time is simulated.
    #[tokio::test(start_paused = true)]
    async fn a_ready_endpoint_waits_for_no_batch() {
        let service = json!({ "metadata": { "namespace": "default", "name": "web", "uid": "web",
                "resourceVersion": "1" },
            "spec": { "clusterIP": "None", "ports": [{ "port": 80 }] } });
        let service: Service = serde_json::from_value(service).expect("a Service");
        let (to_services, services) = unbounded();
        let (to_slices, slices) = unbounded();
        let watched = ZoneCaches {
            namespaces: Cache::from_events(futures::stream::pending()),
            services: Cache::from_events(services),
            slices: Cache::from_events(slices),
        };
        for event in [Event::Init, Event::InitApply(service), Event::InitDone] {
            to_services.unbounded_send(event).expect("a cache");
        }
        for event in [Event::Init, Event::InitApply(slice(false)), Event::InitDone] {
            to_slices.unbounded_send(event).expect("a cache");
        }
        let (zone, shutdown) = (CurrentZone::default(), CancellationToken::new());
        let settings = Settings {
            domain: "cluster.local".to_owned(),
            dns_addresses: Vec::new(),
            ranges: Vec::new(),
        };
        let current = zone.clone();
        tokio::spawn(follow(watched, settings, current, None, shutdown.clone()));
        sleep(Duration::from_secs(1)).await;
        assert!(!is_found(&zone));
        let event = Event::Apply(slice(true));
        to_slices.unbounded_send(event).expect("a cache");
        let start = Instant::now();
        while !is_found(&zone) && start.elapsed() < Duration::from_secs(60) {
            sleep(limits::DEBOUNCE).await;
        }
        // Simulated timers round up to a millisecond.
        let time = start.elapsed();
        assert!(time <= limits::DEBOUNCE * 4, "{time:?}");
        shutdown.cancel();
    }

    async fn wait_until(condition: &str, is_true: impl Fn() -> bool) {
        let start = Instant::now();
        while !is_true() {
            let time = start.elapsed();
            assert!(
                time < Duration::from_secs(60),
                "it does not come true that {condition}"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    // findings-2 R40
    /// A server without an API uses the names that a former server stored, and the API as soon as the API responds.
    #[tokio::test]
    async fn names_are_kept_for_a_start_without_an_api_server() {
        let temp = tempfile::tempdir().expect("a directory");
        let file = temp.path().join("names.json");
        let settings = Settings {
            domain: "cluster.local".to_owned(),
            dns_addresses: Vec::new(),
            ranges: Vec::new(),
        };
        let mut zone_file = ZoneFile::at(file.clone());
        assert!(zone_file.read(settings.clone()).await.is_none());
        let service = json!({ "metadata": { "namespace": "default", "name": "web", "uid": "web",
                "resourceVersion": "1" },
            "spec": { "clusterIP": "None", "ports": [{ "port": 80 }] } });
        let service: Service = serde_json::from_value(service).expect("a Service");
        let state = |service, slices| ServiceState {
            key: ObjectKey::new("default", "web"),
            service,
            slices,
        };
        let there = state(Some(Arc::new(service)), vec![Arc::new(slice(true))]);
        zone_file.record(&[there]);
        assert!(zone_file.due().is_some());
        zone_file.write();
        wait_until("the names are kept", || file.exists()).await;
        let zone = CurrentZone::default();
        zone.set(zone_file.read(settings.clone()).await.expect("the names"));
        assert!(is_found(&zone));
        // The lists are empty now.
        let (to_services, services) = unbounded();
        let (to_slices, slices) = unbounded();
        let watched = ZoneCaches {
            namespaces: Cache::from_events(futures::stream::pending()),
            services: Cache::from_events(services),
            slices: Cache::from_events(slices),
        };
        let (zone, shutdown) = (CurrentZone::default(), CancellationToken::new());
        let (current, stored) = (zone.clone(), Some(ZoneFile::at(file)));
        let following = follow(watched, settings, current, stored, shutdown.clone());
        let following = tokio::spawn(following);
        wait_until("the kept names are served", || is_found(&zone)).await;
        for event in [Event::Init, Event::InitDone] {
            to_services.unbounded_send(event).expect("a cache");
        }
        for event in [Event::Init, Event::InitDone] {
            to_slices.unbounded_send(event).expect("a cache");
        }
        wait_until("the names of the API are served", || !is_found(&zone)).await;
        shutdown.cancel();
        following.await.expect("it ends");
    }
}
