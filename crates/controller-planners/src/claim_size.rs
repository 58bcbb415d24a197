//! The sizes of a claim.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use object_model::Quantity;

/// The requested size; `None` if there is none, or if it cannot be parsed.
pub(crate) fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    resources.requests.as_ref()?.get("storage")?.0.parse().ok()
}

/// The size of the claim's volume.
pub(crate) fn capacity(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let capacity = claim.status.as_ref()?.capacity.as_ref()?;
    capacity.get("storage")?.0.parse().ok()
}
