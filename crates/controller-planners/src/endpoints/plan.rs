//! The writes for a Service.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use object_model::{IncompleteMetadata, Uid};
use resource_kinds::MetadataIdentity;
use resource_kinds::pod_view::PodView;

use super::endpoint::{self, Backend, Family};
use super::{by_hand, mirror, slices, urgency};
use crate::batching::WriteUrgency;

/// The observed state of one Service.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// The Service, if it exists.
    pub service: Option<Arc<Service>>,
    /// The pods that it selects.
    pub pods: Vec<Arc<PodView>>,
    /// The zone of each node that has one.
    pub zones: BTreeMap<String, String>,
    /// The Service's slices that this controller manages.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// The Service's slices that mirror Endpoints.
    pub mirrored: Vec<Arc<EndpointSlice>>,
    /// The Endpoints with the Service's name, of any manager.
    pub endpoints: Option<Arc<Endpoints>>,
}

/// An object to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedObject {
    pub name: String,
    /// The UID: a new object of that name stays.
    pub uid: Uid,
}

impl DeletedObject {
    pub(super) fn of(metadata: &ObjectMeta) -> Result<Self, IncompleteMetadata> {
        Ok(Self {
            name: metadata.object_name()?.to_owned(),
            uid: metadata.object_uid()?,
        })
    }
}

/// A write to the Endpoints of a Service.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointsWrite {
    /// Create them.
    Create(Box<Endpoints>),
    /// Replace the Endpoints; the object contains the observed resourceVersion.
    Update(Box<Endpoints>),
    /// Delete the Endpoints, because their Service was deleted.
    Delete(DeletedObject),
}

/// The writes to the EndpointSlices and Endpoints of one Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointsPlan {
    /// EndpointSlices to create.
    pub create: Vec<EndpointSlice>,
    /// Slices to replace; they contain the observed resourceVersion.
    pub update: Vec<EndpointSlice>,
    /// Slices to delete.
    pub delete: Vec<DeletedObject>,
    /// The write to the Endpoints.
    pub endpoints: Option<EndpointsWrite>,
}

impl EndpointsPlan {
    /// Whether there is nothing to write.
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }

    /// The weight of the planned changes; `None` if there are no changes. `observed` is the state for which the plan
    /// was made. A change to endpoints that clients do not use yet, or no longer use, is minor: the change of their
    /// readiness is written separately.
    pub fn urgency(&self, observed: &Observed) -> Option<WriteUrgency> {
        urgency::of(observed, self)
    }

    /// The weight of the write to the Endpoints; `None` if there is no write. An update is minor unless it changes the
    /// ready addresses or their ports.
    pub fn urgency_of_endpoints(&self, observed: &Observed) -> Option<WriteUrgency> {
        let write = self.endpoints.as_ref()?;
        Some(urgency::of_endpoints(observed, write))
    }
}

/// Plans the writes for a Service.
pub fn plan(observed: &Observed) -> Result<EndpointsPlan, IncompleteMetadata> {
    plan_with(observed, mirror::plan)
}

/// Plans the writes for a Service without an update of its Endpoints.
pub fn plan_slices(observed: &Observed) -> Result<EndpointsPlan, IncompleteMetadata> {
    plan_with(observed, |_, _, _| None)
}

fn plan_with(
    observed: &Observed,
    endpoints: impl Fn(&Observed, &Service, &[Backend<'_>]) -> Option<EndpointsWrite>,
) -> Result<EndpointsPlan, IncompleteMetadata> {
    let mut plan = EndpointsPlan::default();
    match observed.service.as_deref() {
        // The garbage collector deletes the slices of the Service by their owner reference; mirrored slices have
        // another owner.
        None => {
            plan.endpoints = mirror::without_service(observed)?;
            by_hand::plan(observed, None, &mut plan)?;
        }
        Some(service) if is_ours(service) => {
            let families = endpoint::families(service).into_iter();
            let backends: Vec<(Family, Vec<Backend<'_>>)> = families
                .map(|family| (family, endpoint::backends(observed, service, family)))
                .collect();
            let first = backends.first();
            plan.endpoints = first.and_then(|(_, first)| endpoints(observed, service, first));
            slices::plan(observed, service, backends, &mut plan)?;
            by_hand::plan(observed, None, &mut plan)?;
        }
        Some(service) => {
            let without_selector = Some(service).filter(|service| !has_selector(service));
            by_hand::plan(observed, without_selector, &mut plan)?;
        }
    }
    Ok(plan)
}

/// Whether the Service's selector determines its endpoints.
fn is_ours(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    has_selector(service)
        && spec.and_then(|spec| spec.type_.as_deref()) != Some("ExternalName")
        && service.metadata.deletion_timestamp.is_none()
}

fn has_selector(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty())
}
