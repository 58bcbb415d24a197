//! Claims and their template.

use controller_planners::stateful_set::identity;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::state::Claim;

use super::{CEASED, CLAIM, NAMESPACE, SET, app, at, owner_pod, owner_set, uid, version};

pub(super) fn object(ordinal: u8, claim: &Claim) -> PersistentVolumeClaim {
    let of_set = claim.owners.set.map(owner_set);
    let of_pod = claim.owners.pod.map(|pod| owner_pod(ordinal, pod));
    let owners: Vec<_> = of_set.into_iter().chain(of_pod).collect();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(identity::claim_name(CLAIM, SET, i64::from(ordinal))),
            namespace: Some(NAMESPACE.to_owned()),
            uid: Some(uid("claim", claim.uid)),
            resource_version: Some(version(claim.version)),
            labels: Some(app()),
            owner_references: (!owners.is_empty()).then_some(owners),
            deletion_timestamp: claim.terminating.then(|| at(CEASED)),
            ..ObjectMeta::default()
        },
        ..PersistentVolumeClaim::default()
    }
}

pub(super) fn template() -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(CLAIM.to_owned()),
            ..ObjectMeta::default()
        },
        ..PersistentVolumeClaim::default()
    }
}
