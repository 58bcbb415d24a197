//! Endpoints of a Service, for clients that still read the old API.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use resource_kinds::labels;

use super::endpoint::{self, Backend};
use super::plan::{EndpointsWrite, Observed};

/// The label that names the manager of Endpoints.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// The annotation for truncated addresses.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Maximum number of addresses in one object; as kube-controller-manager.
const ADDRESSES_MAX: usize = 1000;

/// Deletes Endpoints without a Service, if this controller manages them.
pub(super) fn without_service(observed: &Observed) -> Option<EndpointsWrite> {
    let endpoints = observed.endpoints.as_deref()?;
    let labels = endpoints.metadata.labels.as_ref()?;
    let ours = labels
        .get(MANAGED_BY)
        .is_some_and(|manager| manager == MANAGER);
    let gone = endpoints.metadata.deletion_timestamp.is_some();
    (ours && !gone).then(|| EndpointsWrite::Delete {
        name: observed.name.clone(),
        uid: endpoints.metadata.uid.clone().unwrap_or_default(),
    })
}

pub(super) fn plan(observed: &Observed, service: &Service) -> Option<EndpointsWrite> {
    let family = endpoint::families(service).into_iter().next()?;
    let mut backends = endpoint::backends(observed, service, family);
    // Endpoints have no terminating addresses.
    let tolerant = endpoint::publishes_not_ready(service);
    backends.retain(|backend| tolerant || !backend.terminating);
    let over = backends.len() > ADDRESSES_MAX;
    if over {
        // Ready addresses stay.
        backends.sort_by_key(|backend| !backend.ready);
        backends.truncate(ADDRESSES_MAX);
    }
    let subsets = subsets(service, &backends);
    let labels = labels(service);
    let Some(present) = observed.endpoints.as_deref() else {
        return Some(EndpointsWrite::Create(Box::new(Endpoints {
            metadata: ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: over.then(|| BTreeMap::from([truncated()])),
                ..ObjectMeta::default()
            },
            subsets: Some(subsets),
        })));
    };
    let annotations = present.metadata.annotations.as_ref();
    let said = annotations.is_some_and(|all| all.contains_key(OVER_CAPACITY));
    let same = present.subsets.as_deref().unwrap_or_default() == subsets
        && present.metadata.labels.as_ref() == Some(&labels)
        && said == over;
    if same || present.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut changed = present.clone();
    changed.metadata.labels = Some(labels);
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    annotations.extend(over.then(truncated));
    changed.subsets = Some(subsets);
    Some(EndpointsWrite::Update(Box::new(changed)))
}

fn truncated() -> (String, String) {
    (OVER_CAPACITY.to_owned(), "truncated".to_owned())
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut all = service.metadata.labels.clone().unwrap_or_default();
    all.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    all.remove(labels::HEADLESS);
    if endpoint::is_headless(service) {
        all.insert(labels::HEADLESS.to_owned(), String::new());
    }
    all
}

/// One subset for each set of ports, sorted.
fn subsets(service: &Service, backends: &[Backend]) -> Vec<EndpointSubset> {
    let without_ports = endpoint::is_headless(service)
        && service
            .spec
            .as_ref()
            .is_none_or(|spec| spec.ports.iter().flatten().count() == 0);
    let mut subsets: BTreeMap<Vec<PortKey>, EndpointSubset> = BTreeMap::new();
    for backend in backends {
        if backend.ports.is_empty() && !without_ports {
            continue;
        }
        let mut ports: Vec<PortKey> = backend.ports.iter().map(PortKey::of).collect();
        ports.sort_unstable();
        let subset = subsets
            .entry(ports.clone())
            .or_insert_with(|| EndpointSubset {
                ports: (!ports.is_empty()).then(|| ports.into_iter().map(PortKey::port).collect()),
                ..EndpointSubset::default()
            });
        let ready = endpoint::publishes_not_ready(service) || backend.ready;
        let list = if ready {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(address(backend));
    }
    let mut subsets: Vec<EndpointSubset> = subsets.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses] {
            list.iter_mut()
                .for_each(|list| list.sort_by(|a, b| a.ip.cmp(&b.ip)));
        }
    }
    subsets
}

fn address(backend: &Backend) -> EndpointAddress {
    EndpointAddress {
        ip: backend
            .endpoint
            .addresses
            .first()
            .cloned()
            .unwrap_or_default(),
        hostname: backend.endpoint.hostname.clone(),
        node_name: backend.endpoint.node_name.clone(),
        target_ref: backend.endpoint.target_ref.clone(),
    }
}

/// A port with the sort order of ports.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct PortKey {
    name: Option<String>,
    port: i32,
    protocol: Option<String>,
    app_protocol: Option<String>,
}

impl PortKey {
    fn of(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> Self {
        Self {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: port.port.unwrap_or_default(),
            protocol: port.protocol.clone(),
            app_protocol: port.app_protocol.clone(),
        }
    }

    fn port(self) -> EndpointPort {
        EndpointPort {
            name: self.name,
            port: self.port,
            protocol: self.protocol,
            app_protocol: self.app_protocol,
        }
    }
}
