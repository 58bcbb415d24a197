//! The owner of an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// The controlling owner of an object.
pub fn controller(owners: Option<&[OwnerReference]>) -> Option<&OwnerReference> {
    owners?.iter().find(|owner| owner.controller == Some(true))
}
