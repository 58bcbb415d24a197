//! Endpoints of a Service, for clients that still read the old API.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::IncompleteMetadata;
use resource_kinds::labels;

use super::endpoint::{self, Backend};
use super::plan::{DeletedObject, EndpointsWrite, Observed};

/// The label that names the manager of Endpoints.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// The annotation for truncated addresses.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Maximum number of addresses in one object; as kube-controller-manager.
const ADDRESSES_MAX: usize = 1000;

/// Deletes Endpoints without a Service, if this controller manages them.
pub(super) fn without_service(
    observed: &Observed,
) -> Result<Option<EndpointsWrite>, IncompleteMetadata> {
    let Some(endpoints) = observed.endpoints.as_deref() else {
        return Ok(None);
    };
    let labels = endpoints.metadata.labels.as_ref();
    let is_managed_here = labels
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|manager| manager == MANAGER);
    let is_deleted = endpoints.metadata.deletion_timestamp.is_some();
    if !is_managed_here || is_deleted {
        return Ok(None);
    }
    let deleted = DeletedObject::of(&endpoints.metadata)?;
    Ok(Some(EndpointsWrite::Delete(deleted)))
}

/// Plans the Endpoints with the pods in the first IP family of the Service.
pub(super) fn plan(
    observed: &Observed,
    service: &Service,
    backends: &[Backend<'_>],
) -> Option<EndpointsWrite> {
    // Endpoints have no terminating addresses.
    let tolerant = endpoint::publishes_not_ready(service);
    let backends = backends.iter();
    let mut backends: Vec<&Backend<'_>> = backends
        .filter(|backend| tolerant || !backend.terminating)
        .collect();
    let over = backends.len() > ADDRESSES_MAX;
    if over {
        // If addresses are dropped, ready addresses are retained first.
        backends.sort_by_key(|backend| !backend.ready);
        backends.truncate(ADDRESSES_MAX);
    }
    let subsets = subsets(service, &backends);
    let build = || Some(subsets.iter().map(Subset::subset).collect());
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
            subsets: build(),
        })));
    };
    let annotations = present.metadata.annotations.as_ref();
    let is_annotated = annotations.is_some_and(|all| all.contains_key(OVER_CAPACITY));
    let stored = present.subsets.as_deref().unwrap_or_default();
    let same = stored.len() == subsets.len()
        && subsets.iter().zip(stored).all(|(new, old)| new.is(old))
        && present.metadata.labels.as_ref() == Some(&labels)
        && is_annotated == over;
    if same || present.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let mut changed = Endpoints {
        metadata: present.metadata.clone(),
        subsets: build(),
    };
    changed.metadata.labels = Some(labels);
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.remove(OVER_CAPACITY);
    annotations.extend(over.then(truncated));
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

/// Pods with equal ports.
#[derive(Default)]
struct Subset<'b> {
    ports: Vec<PortKey>,
    ready: Vec<&'b Backend<'b>>,
    not_ready: Vec<&'b Backend<'b>>,
}

impl Subset<'_> {
    fn ports(&self) -> Option<Vec<EndpointPort>> {
        let ports = self.ports.iter().cloned().map(PortKey::port);
        Some(ports.collect()).filter(|ports: &Vec<_>| !ports.is_empty())
    }

    /// The subset in the Endpoints.
    fn subset(&self) -> EndpointSubset {
        EndpointSubset {
            ports: self.ports(),
            addresses: addresses(&self.ready),
            not_ready_addresses: addresses(&self.not_ready),
        }
    }

    /// Whether `present` is equal to this [`subset`](Self::subset).
    fn is(&self, present: &EndpointSubset) -> bool {
        present.ports == self.ports()
            && are(&self.ready, present.addresses.as_deref())
            && are(&self.not_ready, present.not_ready_addresses.as_deref())
    }
}

/// One subset for each set of ports, sorted.
fn subsets<'b>(service: &Service, backends: &[&'b Backend<'b>]) -> Vec<Subset<'b>> {
    let without_ports = endpoint::is_headless(service)
        && service
            .spec
            .as_ref()
            .is_none_or(|spec| spec.ports.iter().flatten().count() == 0);
    let mut subsets: BTreeMap<Vec<PortKey>, Subset<'b>> = BTreeMap::new();
    // Adjacent pods usually have equal ports.
    for backends in backends.chunk_by(|a, b| a.ports == b.ports) {
        let ports = &backends[0].ports;
        if ports.is_empty() && !without_ports {
            continue;
        }
        let mut ports: Vec<PortKey> = ports.iter().map(PortKey::of).collect();
        ports.sort_unstable();
        let subset = subsets.entry(ports.clone()).or_default();
        subset.ports = ports;
        for backend in backends {
            match endpoint::publishes_not_ready(service) || backend.ready {
                true => subset.ready.push(backend),
                false => subset.not_ready.push(backend),
            }
        }
    }
    let mut subsets: Vec<Subset<'b>> = subsets.into_values().collect();
    for subset in &mut subsets {
        for list in [&mut subset.ready, &mut subset.not_ready] {
            list.sort_by_key(|backend| backend.address);
        }
    }
    subsets
}

/// `None` without backends, because an empty list is left out of the object.
fn addresses(backends: &[&Backend<'_>]) -> Option<Vec<EndpointAddress>> {
    let address = |backend: &&Backend<'_>| EndpointAddress {
        ip: backend.address.to_owned(),
        hostname: backend.hostname.map(str::to_owned),
        node_name: backend.pod.node.as_ref().map(ToString::to_string),
        target_ref: Some(backend.reference()),
    };
    (!backends.is_empty()).then(|| backends.iter().map(address).collect())
}

/// Whether `present` are the [`addresses`] of the backends.
fn are(backends: &[&Backend<'_>], present: Option<&[EndpointAddress]>) -> bool {
    let is = |(backend, present): (&&Backend<'_>, &EndpointAddress)| {
        present.ip == backend.address
            && present.hostname.as_deref() == backend.hostname
            && present.node_name.as_deref() == backend.pod.node.as_deref()
            && backend.is_referred_to_by(present.target_ref.as_ref())
    };
    let present = present.unwrap_or_default();
    present.len() == backends.len() && backends.iter().zip(present).all(is)
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
