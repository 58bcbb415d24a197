//! The owner of an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use object_model::Uid;

/// The controlling owner of an object.
pub fn controller(owners: Option<&[OwnerReference]>) -> Option<&OwnerReference> {
    owners?.iter().find(|owner| owner.controller == Some(true))
}

/// Whether the controlling owner of an object has this UID.
pub fn is_controlled_by(owners: Option<&[OwnerReference]>, uid: &Uid) -> bool {
    controller(owners).is_some_and(|owner| *uid == *owner.uid.as_str())
}
