//! The fate of a pod whose node is fenced: the pod is replaced elsewhere, or stays with its node.
//!
//! **Goal**: a pod is replaced only where its set requests a failover, and the pod's data can follow or is not needed.
//! **Relies on**: the fence ([`super::fence`]), after which the pod's processes have ended. **Guarantees**: a claim is
//! given up only if its set has the annotation `mainstay.dev/lost-volume: Recreate`, the claim is created from a
//! template of the set, and its volume is local to the node.

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolume;
use resource_kinds::annotations;
use resource_kinds::labels::HOSTNAME;
use resource_kinds::pod_view::PodView;
use resource_kinds::storage::volume_replication::VolumeReplication;

use crate::stateful_set::{NodeFailure, Options};

/// The cause why a pod stays with its node although the node is fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StayReason {
    /// Its set does not have the annotation value `Failover`.
    NotRequested,
    /// The pod was created before its set got the annotation, or uses the node's process namespace: the pod does not
    /// end with the lease.
    NotEnded,
    /// The pod uses a directory of the node.
    HostPath,
    /// The pod uses a claim whose volume is local to the node.
    Volume {
        claim: String,
        /// The volume; `None` if it is unknown.
        volume: Option<String>,
    },
}

impl std::fmt::Display for StayReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotRequested => write!(
                f,
                "its set does not say {}: Failover",
                annotations::NODE_FAILURE
            ),
            Self::NotEnded => f.write_str("it does not end with the node's lease"),
            Self::HostPath => f.write_str("it uses a directory of the node (hostPath)"),
            Self::Volume {
                claim,
                volume: Some(volume),
            } => {
                write!(f, "volume {volume} of its claim {claim} lives on the node")
            }
            Self::Volume {
                claim,
                volume: None,
            } => {
                write!(f, "the volume of its claim {claim} is not known")
            }
        }
    }
}

/// The treatment of a pod whose node is fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodFate {
    /// The pod is deleted by force, and its set replaces the pod.
    Goes,
    /// The pod is deleted by force together with these claims, when the node has been fenced for this time: the new pod
    /// starts with empty claims.
    GoesWithout {
        /// Claims whose volumes are local to the node.
        claims: Vec<String>,
        /// The time since the fence.
        after: SignedDuration,
    },
    /// The pod waits for its node, or for an administrator.
    StayReason(StayReason),
}

/// The volume of a claim, with the facts that the fence needs.
#[derive(Clone, Copy, Debug)]
pub enum ClaimVolume<'a> {
    /// The claim does not exist.
    Missing,
    /// The claim has no volume yet.
    Unbound,
    /// The claim has this volume.
    Bound(&'a PersistentVolume),
    /// The volume is unknown.
    Unknown,
}

/// The fate of a pod of a fenced node. Total.
pub fn fate<'a>(
    pod: &PodView,
    set: Option<&StatefulSet>,
    volume_of: impl Fn(&str) -> ClaimVolume<'a>,
) -> PodFate {
    let Some(set) = set.filter(|set| asks_for_failover(set)) else {
        return PodFate::StayReason(StayReason::NotRequested);
    };
    if !pod.ends_with_lease() {
        return PodFate::StayReason(StayReason::NotEnded);
    }
    let mut volumes = pod.spec.volumes.iter().flatten();
    if volumes.any(|volume| volume.host_path.is_some()) {
        return PodFate::StayReason(StayReason::HostPath);
    }
    let give_up_after = Options::of(set).lost_volume;
    let mut given_up = Vec::new();
    for claim in &pod.claims {
        let volume = match volume_of(&claim.name) {
            ClaimVolume::Unbound => continue,
            // The claim was given up a moment ago.
            ClaimVolume::Missing if give_up_after.is_some() => continue,
            ClaimVolume::Bound(volume) if !lives_on_a_node(volume) => continue,
            ClaimVolume::Bound(_)
                if give_up_after.is_some() && is_created_from_template(set, pod, &claim.name) =>
            {
                given_up.push(claim.name.to_string());
                continue;
            }
            ClaimVolume::Bound(volume) => volume.metadata.name.clone(),
            ClaimVolume::Missing | ClaimVolume::Unknown => None,
        };
        let claim = claim.name.to_string();
        return PodFate::StayReason(StayReason::Volume { claim, volume });
    }
    match give_up_after {
        Some(after) if !given_up.is_empty() => PodFate::GoesWithout {
            claims: given_up,
            after,
        },
        _ => PodFate::Goes,
    }
}

/// Whether a pod's claim was created from a template of its set.
fn is_created_from_template(set: &StatefulSet, pod: &PodView, claim: &str) -> bool {
    let spec = set.spec.as_ref();
    let mut templates = spec
        .into_iter()
        .flat_map(|spec| spec.volume_claim_templates.iter().flatten());
    let of_pod = claim
        .strip_suffix(&*pod.name)
        .and_then(|rest| rest.strip_suffix('-'));
    of_pod.is_some_and(|name| {
        templates.any(|template| template.metadata.name.as_deref() == Some(name))
    })
}

/// Whether a set has the annotation `mainstay.dev/node-failure: Failover`.
pub fn asks_for_failover(set: &StatefulSet) -> bool {
    Options::of(set).node_failure == NodeFailure::Failover
}

/// Whether a volume can be used on one certain node only. A volume with a complete copy on another node can be used
/// there.
fn lives_on_a_node(volume: &PersistentVolume) -> bool {
    if VolumeReplication::of(volume).is_some_and(|record| record.can_be_promoted()) {
        return false;
    }
    let Some(spec) = &volume.spec else {
        return true;
    };
    let affinity = spec
        .node_affinity
        .as_ref()
        .and_then(|affinity| affinity.required.as_ref());
    let is_tied = affinity.is_some_and(|required| {
        required.node_selector_terms.iter().all(|term| {
            let mut expressions = term.match_expressions.iter().flatten();
            expressions.any(|one| one.key == HOSTNAME)
        })
    });
    spec.local.is_some() || spec.host_path.is_some() || is_tied
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use json_tree::{Value, json};
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn set(annotation: Option<&str>) -> StatefulSet {
        with_volumes(annotation, json!([]))
    }

    /// A set whose present template has these volumes.
    fn with_volumes(annotation: Option<&str>, volumes: Value) -> StatefulSet {
        let mut set = json!({ "metadata": { "name": "web" },
            "spec": { "serviceName": "web", "selector": {},
                "template": { "spec": { "containers": [], "volumes": volumes } } } });
        if let Some(annotation) = annotation {
            set["metadata"]["annotations"] = json!({ annotations::NODE_FAILURE: annotation });
        }
        json_tree::from_value(set).unwrap()
    }

    fn pod(ends: bool) -> PodView {
        using(ends, json!({ "name": "e", "emptyDir": {} }))
    }

    /// A pod with this volume in addition to its claim.
    fn using(ends: bool, volume: Value) -> PodView {
        let mut pod = json!({ "metadata": { "name": "web-0", "uid": "u", "resourceVersion": "1" }, "spec": { "containers": [], "volumes":
            [{ "name": "d", "persistentVolumeClaim": { "claimName": "d-web-0" } }, volume] } });
        if ends {
            pod["metadata"]["annotations"] = json!({ annotations::ENDS_WITH_LEASE: "true" });
        }
        let pod: Pod = json_tree::from_value(pod).unwrap();
        PodView::try_from(pod).unwrap()
    }

    fn volume(spec: Value) -> PersistentVolume {
        json_tree::from_value(json!({ "metadata": { "name": "pv" }, "spec": spec })).unwrap()
    }

    fn tied_to(key: &str) -> Value {
        json!({ "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions":
            [{ "key": key, "operator": "In", "values": ["a"] }] }] } } })
    }

    #[test]
    fn a_pod_goes_only_if_its_set_asks_for_it_and_its_volumes_can_move() {
        let fine = set(Some("Failover"));
        let unbound = |_: &str| ClaimVolume::Unbound;
        assert_eq!(fate(&pod(true), Some(&fine), unbound), PodFate::Goes);
        for set in [None, Some(set(None)), Some(set(Some("Wait")))] {
            assert_eq!(
                fate(&pod(true), set.as_ref(), unbound),
                PodFate::StayReason(StayReason::NotRequested)
            );
        }
        assert_eq!(
            fate(&pod(false), Some(&fine), unbound),
            PodFate::StayReason(StayReason::NotEnded)
        );
        // The pod's own volumes count, not the volumes of the present template.
        let directory = json!({ "name": "h", "hostPath": { "path": "/x" } });
        assert_eq!(
            fate(&using(true, directory.clone()), Some(&fine), unbound),
            PodFate::StayReason(StayReason::HostPath)
        );
        let changed = with_volumes(Some("Failover"), json!([directory]));
        assert_eq!(fate(&pod(true), Some(&changed), unbound), PodFate::Goes);
    }

    #[test]
    fn a_volume_that_lives_on_a_node_stays_there() {
        let set = set(Some("Failover"));
        for (spec, moves) in [
            (tied_to(HOSTNAME), false),
            (tied_to("topology.kubernetes.io/zone"), true),
            (json!({ "local": { "path": "/x" } }), false),
            (json!({ "hostPath": { "path": "/x" } }), false),
            (json!({ "nfs": { "path": "/x", "server": "s" } }), true),
        ] {
            let volume = volume(spec.clone());
            let is_called = Cell::new(false);
            let fate_of_pod = fate(&pod(true), Some(&set), |claim| {
                assert_eq!(claim, "d-web-0");
                is_called.set(true);
                ClaimVolume::Bound(&volume)
            });
            assert!(is_called.get());
            assert_eq!(fate_of_pod == PodFate::Goes, moves, "{spec}");
        }
        for unknown in [ClaimVolume::Unknown, ClaimVolume::Missing] {
            let PodFate::StayReason(cause) = fate(&pod(true), Some(&set), |_| unknown) else {
                panic!("{unknown:?}");
            };
            let text = "the volume of its claim d-web-0 is not known";
            assert_eq!(cause.to_string(), text);
        }
    }

    #[test]
    fn a_volume_of_the_node_is_given_up_only_where_the_set_says_so() {
        let tied = volume(tied_to(HOSTNAME));
        let annotated = |marks: Value, template: &str| -> StatefulSet {
            let mut object = json!({ "metadata": { "name": "web", "annotations": marks },
                "spec": { "serviceName": "web", "selector": {},
                    "template": { "spec": { "containers": [] } } } });
            object["spec"]["volumeClaimTemplates"] =
                json!([{ "metadata": { "name": template }, "spec": {} }]);
            json_tree::from_value(object).unwrap()
        };
        let both = |more: Value| {
            let mut marks = json!({ annotations::NODE_FAILURE: "Failover",
                annotations::LOST_VOLUME: "Recreate" });
            let more = more.as_object().unwrap().clone();
            marks.as_object_mut().unwrap().extend(more);
            marks
        };
        let fate_of = |marks: Value, template: &str, volume: ClaimVolume<'_>| {
            fate(&pod(true), Some(&annotated(marks, template)), |_| volume)
        };
        let bound = ClaimVolume::Bound(&tied);
        let given_up = |seconds| PodFate::GoesWithout {
            claims: vec!["d-web-0".into()],
            after: SignedDuration::from_secs(seconds),
        };
        assert_eq!(fate_of(both(json!({})), "d", bound), given_up(300));
        let soon = both(json!({ annotations::LOST_VOLUME_SECONDS: "60" }));
        assert_eq!(fate_of(soon, "d", bound), given_up(60));
        // The claim of the pod is deleted already.
        assert_eq!(
            fate_of(both(json!({})), "d", ClaimVolume::Missing),
            PodFate::Goes
        );
        // A claim that the set did not create, an unknown volume, and a set without the annotation.
        for (marks, template, volume) in [
            (both(json!({})), "other", bound),
            (both(json!({})), "d", ClaimVolume::Unknown),
            (json!({ annotations::NODE_FAILURE: "Failover" }), "d", bound),
            (json!({ annotations::LOST_VOLUME: "Recreate" }), "d", bound),
        ] {
            let fate_of = fate_of(marks, template, volume);
            assert!(matches!(fate_of, PodFate::StayReason(_)), "{fate_of:?}");
        }
    }
}
