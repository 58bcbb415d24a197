//! Laws of every plan, for any state.

use json_tree::{Value, json};
use proptest::prelude::*;

use super::cluster::{Cluster, claim, class, volume};

fn any_volume(index: usize) -> impl Strategy<Value = Value> {
    let phase = prop::sample::select(vec!["", "Available", "Bound", "Released", "Failed"]);
    let class = prop::sample::select(vec!["", "local", "now"]);
    let policy = prop::sample::select(vec!["Retain", "Delete", "Recycle"]);
    let claimed = prop::sample::select(vec!["", "-", "c0", "c1"]);
    let provisioned = any::<bool>();
    let size = 1..4u8;
    (phase, class, policy, claimed, provisioned, size).prop_map(
        move |(phase, class, policy, claimed, provisioned, size)| {
            let mut volume = volume(&format!("v{index}"), &format!("{size}Gi"), class);
            volume["spec"]["persistentVolumeReclaimPolicy"] = policy.into();
            volume["status"]["phase"] = phase.into();
            if !claimed.is_empty() {
                volume["spec"]["claimRef"] = json!({"name": "data", "namespace": "default"});
                if claimed != "-" {
                    volume["spec"]["claimRef"]["uid"] = claimed.into();
                }
            }
            if provisioned {
                volume["metadata"]["annotations"] =
                    json!({"pv.kubernetes.io/provisioned-by": "mainstay.dev/local"});
            }
            volume
        },
    )
}

fn any_world() -> impl Strategy<Value = Cluster> {
    let class_name =
        prop::sample::select(vec![None, Some(""), Some("local"), Some("now"), Some("x")]);
    let named = prop::sample::select(vec!["", "v0", "v1", "v9"]);
    let phase = prop::sample::select(vec!["", "Pending", "Bound", "Lost"]);
    let volumes = (any_volume(0), any_volume(1), any_volume(2));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (class_name, named, phase, volumes, flags).prop_map(
        |(class_name, named, phase, volumes, (complete, there, default))| {
            let mut claim = claim(class_name, "2Gi");
            claim["status"]["phase"] = phase.into();
            if !named.is_empty() {
                claim["spec"]["volumeName"] = named.into();
            }
            if complete {
                claim["metadata"]["annotations"] =
                    json!({"pv.kubernetes.io/bind-completed": "yes"});
            }
            let classes = [
                class(
                    "local",
                    "WaitForFirstConsumer",
                    "mainstay.dev/local",
                    default,
                ),
                class("now", "Immediate", "mainstay.dev/local", false),
            ];
            let mut cluster = Cluster::new(claim, &[volumes.0, volumes.1, volumes.2], &classes);
            if !there {
                cluster.claim = None;
            }
            cluster
        },
    )
}

proptest! {
    /// From any state the planner becomes idle. Then at most one volume is bound to the claim, a bound claim and its
    /// volume agree, and an unbound claim has a reason. A volume whose status is already bound to a claim that names
    /// another volume is unchanged.
    #[test]
    fn every_world_comes_to_rest(start in any_world()) {
        let is_bound = |volume: &Value| volume["status"]["phase"] == "Bound";
        let mut cluster = start.clone();
        cluster.settle();
        let named = cluster.claim.as_ref().map(|claim| &claim["spec"]["volumeName"]);
        let volumes = cluster.volumes.iter().zip(&start.volumes);
        let bound: Vec<&Value> = volumes
            .filter(|(volume, before)| {
                let by_claim = named == Some(&volume["metadata"]["name"]);
                is_bound(volume) && (by_claim || !is_bound(before))
            })
            .map(|(volume, _)| volume)
            .collect();
        prop_assert!(bound.len() <= 1, "{cluster:#?}");
        if let Some(claim) = &cluster.claim {
            let plan = cluster.claim_plan();
            if claim["status"]["phase"] == "Bound" {
                prop_assert_eq!(bound.len(), 1);
                prop_assert_eq!(&bound[0]["metadata"]["name"], &claim["spec"]["volumeName"]);
                prop_assert_eq!(&bound[0]["spec"]["claimRef"]["uid"], &claim["metadata"]["uid"]);
            } else {
                prop_assert!(plan.waiting_on.is_some(), "{claim}");
            }
        }
    }

    /// A volume that was retained for a deleted claim is never given to another claim.
    #[test]
    fn released_volumes_are_not_reused(start in any_world()) {
        let theirs: Vec<bool> =
            start.volumes.iter().map(|volume| volume["spec"]["claimRef"]["uid"] == "c0").collect();
        let mut cluster = start;
        cluster.settle();
        for (volume, theirs) in cluster.volumes.iter().zip(theirs) {
            if theirs {
                prop_assert_eq!(&volume["spec"]["claimRef"]["uid"], "c0");
                prop_assert_ne!(&volume["status"]["phase"], "Available");
            }
        }
    }
}
