//! EndpointSlices that mirror the Endpoints of a Service without a selector, for proxies and DNS, which read slices
//! only. As kube-controller-manager's mirroring of EndpointSlices.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort as OldPort, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use object_model::IncompleteMetadata;
use resource_kinds::{MetadataIdentity, annotations, labels};

use super::endpoint::Family;
use super::plan::{EndpointsPlan, Observed};
use super::slices::{Group, by_group, delete, ports_key};

/// The value of the label that names the manager of a slice.
pub(super) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label and the value `true` are not mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The annotation of Endpoints that are the lock of a leader election.
const ELECTION: &str = "control-plane.alpha.kubernetes.io/leader";
/// The annotation with the time of the last change of Endpoints. A copy of the annotation would change the slices as
/// well.
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// Maximum number of addresses of one subset; as kube-controller-manager. The limit of one slice is equal.
const ADDRESSES_MAX: usize = 1000;

struct DesiredSlice {
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

pub(super) fn plan(
    observed: &Observed,
    service: Option<&Service>,
    plan: &mut EndpointsPlan,
) -> Result<(), IncompleteMetadata> {
    let endpoints = observed.endpoints.as_deref();
    let endpoints = endpoints.filter(|endpoints| service.is_some() && is_mirrored(endpoints));
    let mut present = by_group(&observed.mirrored);
    for (group, desired) in endpoints.map(desired).unwrap_or_default() {
        let slices = present.remove(&group).unwrap_or_default();
        let existing = slices.first().copied();
        if let Some(endpoints) = endpoints {
            cov_mark::hit!(findings_c20);
            write(endpoints, group.0, desired, existing, plan)?;
        }
        let surplus = slices.into_iter().skip(1);
        delete(surplus, plan)?;
    }
    delete(present.into_values().flatten(), plan)
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let label = meta.labels.as_ref().and_then(|labels| labels.get(SKIP));
    let annotations = meta.annotations.as_ref();
    let is_lock = annotations.is_some_and(|all| all.contains_key(ELECTION));
    label.is_none_or(|value| value != "true") && !is_lock && meta.deletion_timestamp.is_none()
}

fn desired(endpoints: &Endpoints) -> BTreeMap<Group, DesiredSlice> {
    let mut groups: BTreeMap<Group, DesiredSlice> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset.ports.iter().flatten().map(port).collect();
        let key = ports_key(&ports);
        let ready = subset.addresses.iter().flatten().map(|one| (one, true));
        let others = subset.not_ready_addresses.iter().flatten();
        let all = ready.chain(others.map(|one| (one, false)));
        for (family, endpoint) in all
            .filter_map(|(address, ready)| endpoint(address, ready))
            .take(ADDRESSES_MAX)
        {
            let desired = groups
                .entry((family, key.clone()))
                .or_insert_with(|| DesiredSlice {
                    ports: ports.clone(),
                    endpoints: Vec::new(),
                });
            let same = |other: &Endpoint| other.addresses == endpoint.addresses;
            if desired.endpoints.len() < ADDRESSES_MAX && !desired.endpoints.iter().any(same) {
                desired.endpoints.push(endpoint);
            }
        }
    }
    groups
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(Family, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let ip = ip.to_canonical();
    let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((family, endpoint))
}

fn port(port: &OldPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        port: Some(port.port),
        app_protocol: port.app_protocol.clone(),
    }
}

fn write(
    endpoints: &Endpoints,
    family: Family,
    desired: DesiredSlice,
    existing: Option<&Arc<EndpointSlice>>,
    plan: &mut EndpointsPlan,
) -> Result<(), IncompleteMetadata> {
    let (labels, annotations) = (labels(endpoints)?, annotations(endpoints));
    let Some(slice) = existing else {
        let name = endpoints.metadata.object_name()?;
        plan.create.push(EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}-")),
                namespace: endpoints.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: (!annotations.is_empty()).then_some(annotations),
                owner_references: Some(vec![owner(endpoints)?]),
                ..ObjectMeta::default()
            },
            address_type: family.as_str().to_owned(),
            endpoints: Some(desired.endpoints),
            ports: Some(desired.ports),
        });
        return Ok(());
    };
    let meta = &slice.metadata;
    let owners = vec![owner(endpoints)?];
    let same = meta.labels.as_ref() == Some(&labels)
        && meta.annotations.clone().unwrap_or_default() == annotations
        && meta.owner_references.as_ref() == Some(&owners)
        && slice.endpoints.as_deref().unwrap_or_default() == desired.endpoints;
    if !same {
        let mut changed = EndpointSlice::clone(slice);
        changed.metadata.labels = Some(labels);
        changed.metadata.annotations = Some(annotations);
        changed.metadata.owner_references = Some(owners);
        changed.endpoints = Some(desired.endpoints);
        plan.update.push(changed);
    }
    Ok(())
}

/// The labels of the Endpoints, and the labels that identify the slices of a Service.
fn labels(endpoints: &Endpoints) -> Result<BTreeMap<String, String>, IncompleteMetadata> {
    let mut all = endpoints.metadata.labels.clone().unwrap_or_default();
    let name = endpoints.metadata.object_name()?.to_owned();
    all.insert(labels::SERVICE_NAME.to_owned(), name);
    all.insert(labels::SLICE_MANAGED_BY.to_owned(), MANAGER.to_owned());
    Ok(all)
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut all = endpoints.metadata.annotations.clone().unwrap_or_default();
    all.remove(LAST_CHANGE);
    all.remove(annotations::LAST_APPLIED);
    all
}

fn owner(endpoints: &Endpoints) -> Result<OwnerReference, IncompleteMetadata> {
    Ok(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Endpoints".to_owned(),
        name: endpoints.metadata.object_name()?.to_owned(),
        uid: endpoints.metadata.object_uid()?.into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}
