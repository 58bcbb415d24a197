//! The weight of a plan: whether it changes the endpoints that proxies and DNS use.

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use resource_kinds::labels;

use super::plan::{EndpointsPlan, EndpointsWrite, Observed};
use super::slices::ports_key;
use crate::batching::WriteUrgency;

/// The weight of a plan; `None` if there is nothing to write.
pub(super) fn of(observed: &Observed, plan: &EndpointsPlan) -> Option<WriteUrgency> {
    if plan.is_idle() {
        return None;
    }
    let writes_slices = !(plan.create.is_empty() && plan.update.is_empty());
    let updates = matches!(plan.endpoints, None | Some(EndpointsWrite::Update(_)));
    Some(
        match writes_slices && updates && !changes_use(observed, plan) {
            true => WriteUrgency::Minor,
            false => WriteUrgency::Prompt,
        },
    )
}

/// The weight of a write to the Endpoints.
pub(super) fn of_endpoints(observed: &Observed, write: &EndpointsWrite) -> WriteUrgency {
    let EndpointsWrite::Update(new) = write else {
        return WriteUrgency::Immediate;
    };
    let old = observed.endpoints.as_deref();
    match old.is_some_and(|old| ready(old).eq(ready(new))) {
        true => WriteUrgency::Minor,
        false => WriteUrgency::Prompt,
    }
}

/// The ready addresses of each subset that has some, with its ports.
fn ready(endpoints: &Endpoints) -> impl Iterator<Item = (&[EndpointAddress], &[EndpointPort])> {
    let subsets = endpoints.subsets.iter().flatten();
    let parts = subsets.map(|subset| {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        (addresses, subset.ports.as_deref().unwrap_or_default())
    });
    parts.filter(|(addresses, _)| !addresses.is_empty())
}

/// Whether the endpoints in use change, or the properties by which a reader finds and decodes a slice.
fn changes_use(observed: &Observed, plan: &EndpointsPlan) -> bool {
    let present = || observed.slices.iter().chain(&observed.mirrored);
    let is_first = present().next().is_none();
    let mut before = Vec::new();
    let mut after: Vec<(String, &Endpoint)> = plan.create.iter().flat_map(in_use).collect();
    for slice in present() {
        let name = &slice.metadata.name;
        let changed = plan.update.iter().find(|new| new.metadata.name == *name);
        let is_deleted = plan
            .delete
            .iter()
            .any(|deleted| Some(&deleted.name) == name.as_ref());
        match changed {
            Some(new) if !reads_alike(slice, new) => return true,
            None if !is_deleted => continue,
            _ => {}
        }
        before.extend(in_use(slice));
        after.extend(changed.into_iter().flat_map(in_use));
    }
    for used in [&mut before, &mut after] {
        used.sort_by(|a, b| (&a.0, &a.1.addresses).cmp(&(&b.0, &b.1.addresses)));
    }
    is_first || before != after
}

/// The endpoints that may get traffic or that names resolve to, with their ports. An endpoint that is neither ready nor
/// serving is listed only for information. An endpoint without conditions is ready, and a ready endpoint without a
/// `serving` condition serves.
fn in_use(slice: &EndpointSlice) -> impl Iterator<Item = (String, &Endpoint)> {
    let ports = ports_key(slice.ports.as_deref().unwrap_or_default());
    let endpoints = slice.endpoints.iter().flatten();
    let used = endpoints.filter(|endpoint| {
        endpoint.conditions.as_ref().is_none_or(|conditions| {
            conditions.ready.unwrap_or(true) || conditions.serving == Some(true)
        })
    });
    used.map(move |endpoint| (ports.clone(), endpoint))
}

fn reads_alike(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    let text = |slice: &EndpointSlice, label: &str| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(label).cloned())
    };
    [labels::SERVICE_NAME, labels::HEADLESS]
        .iter()
        .all(|label| text(old, label) == text(new, label))
}
