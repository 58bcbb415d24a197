//! The writes for a Service.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use resource_kinds::pod_view::PodView;

use super::{by_hand, mirror, slices};

/// The world as seen from one Service.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// The Service, if it is there.
    pub service: Option<Arc<Service>>,
    /// The pods that it selects.
    pub pods: Vec<Arc<PodView>>,
    /// The zone of each node that has one.
    pub zones: BTreeMap<String, String>,
    /// The slices with its name that this controller keeps.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// The slices with its name that mirror Endpoints.
    pub mirrored: Vec<Arc<EndpointSlice>>,
    /// The Endpoints with its name, whoever keeps them.
    pub endpoints: Option<Arc<Endpoints>>,
}

/// What to do with the Endpoints.
#[derive(Clone, Debug, PartialEq)]
pub enum EndpointsWrite {
    /// Create them.
    Create(Box<Endpoints>),
    /// Replace them; the resourceVersion is the one that was seen.
    Update(Box<Endpoints>),
    /// Delete them: their Service is gone.
    Delete {
        /// Name.
        name: String,
        /// Identity.
        uid: String,
    },
}

/// What to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Slices to create.
    pub create: Vec<EndpointSlice>,
    /// Slices to replace; the resourceVersion is the one that was seen.
    pub update: Vec<EndpointSlice>,
    /// Slices to delete, by name and uid.
    pub delete: Vec<(String, String)>,
    /// What to do with the Endpoints.
    pub endpoints: Option<EndpointsWrite>,
}

impl Plan {
    /// Whether there is nothing to write.
    pub fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

/// Decides what to write for a Service. Total.
pub fn plan(observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    match observed.service.as_deref() {
        // The slices of the Service are the garbage collector's, by their owner; those of Endpoints
        // have another.
        None => {
            plan.endpoints = mirror::without_service(observed);
            by_hand::plan(observed, None, &mut plan);
        }
        Some(service) if is_ours(service) => {
            slices::plan(observed, service, &mut plan);
            plan.endpoints = mirror::plan(observed, service);
            by_hand::plan(observed, None, &mut plan);
        }
        Some(service) => {
            let without_selector = Some(service).filter(|service| !has_selector(service));
            by_hand::plan(observed, without_selector, &mut plan);
        }
    }
    plan
}

/// Whether the endpoints of this Service are found by its selector.
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
