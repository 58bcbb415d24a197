//! Endpoints distributed over slices of bounded size.
//!
//! An endpoint stays in its slice; only a new endpoint is added to a slice with free capacity. The change of one pod
//! thus changes one slice, however large the Service is.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use object_model::IncompleteMetadata;
use resource_kinds::{MetadataIdentity, labels};

use super::endpoint::{self, Backend, Family};
use super::plan::{DeletedObject, EndpointsPlan, Observed};
use crate::ownership::is_controlled_by;

/// The value of the label that names the manager of a slice.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Maximum number of endpoints in one slice; as kube-controller-manager.
const ENDPOINTS_MAX: usize = 100;

/// The common properties of a slice's endpoints.
pub(super) type Group = (Family, String);

#[derive(Default)]
struct DesiredSlices<'o> {
    ports: Vec<EndpointPort>,
    /// The endpoints by the UID of the pod.
    endpoints: BTreeMap<&'o str, Backend<'o>>,
}

/// Plans the slices for the pods of each IP family.
pub(super) fn plan(
    observed: &Observed,
    service: &Service,
    backends: Vec<(Family, Vec<Backend<'_>>)>,
    plan: &mut EndpointsPlan,
) -> Result<(), IncompleteMetadata> {
    let mut groups: BTreeMap<Group, DesiredSlices<'_>> = BTreeMap::new();
    for (family, backends) in backends {
        let mut last: Option<(Rc<[EndpointPort]>, String)> = None;
        for backend in backends {
            // Adjacent pods usually have equal ports.
            let key = match last.take() {
                Some((ports, key)) if ports == backend.ports => key,
                _ => ports_key(&backend.ports),
            };
            let desired = groups
                .entry((family, key.clone()))
                .or_insert_with(|| DesiredSlices {
                    ports: backend.ports.to_vec(),
                    endpoints: BTreeMap::new(),
                });
            last = Some((Rc::clone(&backend.ports), key));
            desired.endpoints.insert(backend.pod.uid.as_str(), backend);
        }
        // A Service without endpoints has one empty slice.
        if !groups.keys().any(|(of, _)| *of == family) {
            groups.insert((family, ports_key(&[])), DesiredSlices::default());
        }
    }
    let uid = service.metadata.object_uid()?;
    let owned = |slice: &&Arc<EndpointSlice>| {
        is_controlled_by(slice.metadata.owner_references.as_deref(), &uid)
    };
    let (owned_slices, former): (Vec<_>, Vec<_>) = observed.slices.iter().partition(owned);
    // Slices of a former Service of this name: the garbage collector is about to delete them.
    delete(former, plan)?;
    let mut present = by_group(owned_slices);
    for (group, desired) in groups {
        let slices = present.remove(&group).unwrap_or_default();
        fill(service, group.0, desired, &slices, plan)?;
    }
    delete(present.into_values().flatten(), plan)
}

/// The slices of each group, by name.
pub(super) fn by_group<'s>(
    slices: impl IntoIterator<Item = &'s Arc<EndpointSlice>>,
) -> BTreeMap<Group, Vec<&'s Arc<EndpointSlice>>> {
    let mut present: BTreeMap<Group, Vec<&Arc<EndpointSlice>>> = BTreeMap::new();
    let mut slices: Vec<&Arc<EndpointSlice>> = slices.into_iter().collect();
    slices.sort_unstable_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for slice in slices {
        if slice.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let ports = slice.ports.as_deref().unwrap_or_default();
        let family = if slice.address_type == "IPv6" {
            Family::V6
        } else {
            Family::V4
        };
        present
            .entry((family, ports_key(ports)))
            .or_default()
            .push(slice);
    }
    present
}

/// Distributes the endpoints of one group over its slices.
fn fill(
    service: &Service,
    family: Family,
    mut desired: DesiredSlices<'_>,
    slices: &[&Arc<EndpointSlice>],
    plan: &mut EndpointsPlan,
) -> Result<(), IncompleteMetadata> {
    let mut contents: Vec<(Option<&Arc<EndpointSlice>>, Vec<Backend<'_>>)> = Vec::new();
    for slice in slices {
        let stored = slice.endpoints.iter().flatten();
        let stored = stored.filter_map(|endpoint| desired.endpoints.remove(uid_of(endpoint)));
        contents.push((Some(slice), stored.collect()));
    }
    let mut left: Vec<Backend<'_>> = desired.endpoints.into_values().collect();
    left.sort_by(|a, b| a.pod.name.cmp(&b.pod.name));
    let mut left = left.into_iter();
    for (_, endpoints) in &mut contents {
        let capacity = ENDPOINTS_MAX.saturating_sub(endpoints.len());
        endpoints.extend(left.by_ref().take(capacity));
    }
    loop {
        let chunk: Vec<_> = left.by_ref().take(ENDPOINTS_MAX).collect();
        if chunk.is_empty() {
            break;
        }
        contents.push((None, chunk));
    }
    if contents.is_empty() {
        contents.push((None, Vec::new()));
    }
    // One empty slice stays only if there is no other slice.
    let mut spare = contents.iter().all(|(_, endpoints)| endpoints.is_empty());
    for (slice, endpoints) in contents {
        if endpoints.is_empty() && !std::mem::take(&mut spare) {
            delete(slice, plan)?;
            continue;
        }
        write(service, family, &desired.ports, slice, &endpoints, plan)?;
    }
    Ok(())
}

fn write(
    service: &Service,
    family: Family,
    ports: &[EndpointPort],
    slice: Option<&Arc<EndpointSlice>>,
    endpoints: &[Backend<'_>],
    plan: &mut EndpointsPlan,
) -> Result<(), IncompleteMetadata> {
    let labels = labels(service)?;
    let build = || endpoints.iter().map(Backend::endpoint).collect();
    let Some(slice) = slice else {
        let name = service.metadata.object_name()?;
        plan.create.push(EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{name}-")),
                namespace: service.metadata.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![owner(service)?]),
                ..ObjectMeta::default()
            },
            address_type: family.as_str().to_owned(),
            endpoints: Some(build()),
            ports: Some(ports.to_vec()),
        });
        return Ok(());
    };
    let present = slice.endpoints.as_deref().unwrap_or_default();
    let same = slice.metadata.labels.as_ref() == Some(&labels)
        && present.len() == endpoints.len()
        && endpoints.iter().zip(present).all(|(new, old)| new.is(old));
    if !same {
        plan.update.push(EndpointSlice {
            metadata: ObjectMeta {
                labels: Some(labels),
                ..slice.metadata.clone()
            },
            address_type: slice.address_type.clone(),
            endpoints: Some(build()),
            ports: slice.ports.clone(),
        });
    }
    Ok(())
}

/// The labels of the Service, and the labels that identify the slices of a Service.
fn labels(service: &Service) -> Result<BTreeMap<String, String>, IncompleteMetadata> {
    let mut all = service.metadata.labels.clone().unwrap_or_default();
    let name = service.metadata.object_name()?.to_owned();
    all.insert(labels::SERVICE_NAME.to_owned(), name);
    all.insert(labels::SLICE_MANAGED_BY.to_owned(), MANAGER.to_owned());
    all.remove(labels::HEADLESS);
    if endpoint::is_headless(service) {
        all.insert(labels::HEADLESS.to_owned(), String::new());
    }
    Ok(all)
}

fn owner(service: &Service) -> Result<OwnerReference, IncompleteMetadata> {
    Ok(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: service.metadata.object_name()?.to_owned(),
        uid: service.metadata.object_uid()?.into(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}

/// Adds the deletion of slices.
pub(super) fn delete<'s>(
    slices: impl IntoIterator<Item = &'s Arc<EndpointSlice>>,
    plan: &mut EndpointsPlan,
) -> Result<(), IncompleteMetadata> {
    for slice in slices {
        plan.delete.push(DeletedObject::of(&slice.metadata)?);
    }
    Ok(())
}

fn uid_of(endpoint: &Endpoint) -> &str {
    let target = endpoint.target_ref.as_ref();
    target
        .and_then(|target| target.uid.as_deref())
        .unwrap_or_default()
}

/// A string that is equal for equal ports.
pub(super) fn ports_key(ports: &[EndpointPort]) -> String {
    let mut parts: Vec<String> = ports
        .iter()
        .map(|port| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let (name, protocol) = (text(&port.name), text(&port.protocol));
            format!(
                "{name}/{protocol}/{:?}/{}",
                port.port,
                text(&port.app_protocol)
            )
        })
        .collect();
    parts.sort_unstable();
    parts.join(",")
}
