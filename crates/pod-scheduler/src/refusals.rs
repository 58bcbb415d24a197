//! The nodes on which provisioners could not create the volume of a claim. The provisioner rejects such a choice of a
//! node, for example because the disk of the node is full. The node is excluded for a while; otherwise the scheduler
//! would choose it again and again. A new leader starts without such nodes. The time is an argument.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use controller_framework::{Cache, ObjectChange, object_key};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use object_model::ObjectKey;
use pod_placement::ClaimStep;
use process_telemetry::refusals::{self, Budget};
use resource_kinds::MetadataIdentity;
use resource_kinds::annotations::SELECTED_NODE;

use crate::limits::REFUSED_FOR;
use crate::reservations::ReservedClaim;

/// Namespace and name of a claim.
type ClaimName = (String, String);

/// The excluded nodes, each with the time at which the exclusion ends.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    by_claim: BTreeMap<ClaimName, BTreeMap<String, Instant>>,
    /// The choices that this scheduler has written and not yet observed, each with its revision. A cache shows only the
    /// last state of a claim, so a choice that is rejected at once may never be visible.
    written: BTreeMap<ClaimName, (String, u64)>,
}

impl Refusals {
    /// Records the rejection of a node: the node was chosen for the claim, is no longer chosen, and the claim has no
    /// volume.
    pub fn observe(&mut self, change: &ObjectChange<PersistentVolumeClaim>, now: Instant) {
        let claim = change.object();
        let key = name_of(claim);
        match change {
            ObjectChange::Applied(new, Some(old)) if is_same(new, old) && !has_volume(new) => {
                let written = self.written.remove(&key);
                if selected_node(new).is_some() {
                    return;
                }
                if let Some(node) = selected_node(old) {
                    self.refuse(key, node.to_owned(), now);
                }
                if let Some((node, revision)) = written {
                    self.wrote(new, node, revision, now);
                }
            }
            // The claim has a volume, or is another claim of the same name.
            ObjectChange::Applied(..) | ObjectChange::Deleted(_) => {
                self.by_claim.remove(&key);
                self.written.remove(&key);
            }
        }
    }

    /// Records the choices of the node among the steps that were written for a pod of the namespace.
    pub fn chose(
        &mut self,
        namespace: &str,
        node: &str,
        steps: &[ReservedClaim],
        claims: &Cache<PersistentVolumeClaim>,
    ) {
        for reserved in steps {
            if let (ClaimStep::SelectNode { claim }, Some(revision)) =
                (&reserved.step, reserved.revision)
                && let Some(claim) = claims.get(namespace, claim)
            {
                self.wrote(&claim, node.to_owned(), revision, Instant::now());
            }
        }
    }

    /// Records a choice that was written with the given revision. `claim` is the last observed state; if it is newer
    /// than the choice and does not contain it, the choice was rejected.
    fn wrote(&mut self, claim: &PersistentVolumeClaim, node: String, revision: u64, now: Instant) {
        let key = name_of(claim);
        match revision_of(claim).cmp(&Some(revision)) {
            Ordering::Less => drop(self.written.insert(key, (node, revision))),
            Ordering::Greater if selected_node(claim).is_none() && !has_volume(claim) => {
                let is_excluded = |nodes: &BTreeMap<String, Instant>| nodes.contains_key(&node);
                if !self.by_claim.get(&key).is_some_and(is_excluded) {
                    self.refuse(key, node, now);
                }
            }
            Ordering::Equal | Ordering::Greater => {}
        }
    }

    fn refuse(&mut self, claim: ClaimName, node: String, now: Instant) {
        let nodes = self.by_claim.entry(claim).or_default();
        nodes.insert(node, now + REFUSED_FOR);
        refusals::count(Budget::NodeChoices);
    }

    /// Ends the exclusions whose time is over. Returns the namespaces of their claims.
    pub fn expire(&mut self, now: Instant) -> BTreeSet<String> {
        let mut namespaces = BTreeSet::new();
        self.by_claim.retain(|(namespace, _), nodes| {
            let before = nodes.len();
            nodes.retain(|_, until| *until > now);
            if nodes.len() < before {
                namespaces.insert(namespace.clone());
            }
            !nodes.is_empty()
        });
        namespaces
    }

    /// The time at which the next exclusion ends.
    pub fn next_end(&self) -> Option<Instant> {
        self.by_claim
            .values()
            .flat_map(BTreeMap::values)
            .min()
            .copied()
    }

    /// The excluded nodes, by claim.
    pub fn nodes(&self) -> BTreeMap<ClaimName, BTreeSet<String>> {
        let by_claim = self.by_claim.iter();
        by_claim
            .map(|(claim, nodes)| (claim.clone(), nodes.keys().cloned().collect()))
            .collect()
    }
}

fn name_of(claim: &PersistentVolumeClaim) -> ClaimName {
    let ObjectKey { namespace, name } = object_key(claim);
    (namespace.to_string(), name.to_string())
}

fn is_same(a: &PersistentVolumeClaim, b: &PersistentVolumeClaim) -> bool {
    let uids = (a.metadata.object_uid(), b.metadata.object_uid());
    matches!(uids, (Ok(a), Ok(b)) if a == b)
}

fn revision_of(claim: &PersistentVolumeClaim) -> Option<u64> {
    let version = claim.metadata.resource_version.as_deref();
    version.and_then(|version| version.parse().ok())
}

fn has_volume(claim: &PersistentVolumeClaim) -> bool {
    let spec = claim.spec.as_ref();
    spec.and_then(|spec| spec.volume_name.as_deref())
        .is_some_and(|name| !name.is_empty())
}

fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref()?;
    annotations.get(SELECTED_NODE).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use json_tree::json;

    use super::*;

    fn claim(uid: &str, node: Option<&str>, volume: Option<&str>) -> Arc<PersistentVolumeClaim> {
        let annotations = node.map(|node| json!({ SELECTED_NODE: node }));
        let claim = json!({"metadata": {"namespace": "default", "name": "data", "uid": uid,
            "annotations": annotations}, "spec": {"volumeName": volume}});
        Arc::new(json_tree::from_value(claim).unwrap())
    }

    // findings-2 R30
    #[test]
    fn a_node_whose_choice_is_taken_back_is_left_out_for_a_while() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        let mut change =
            |old: (&str, Option<&str>), new: (&str, Option<&str>, Option<&str>), at| {
                let (old, new) = (claim(old.0, old.1, None), claim(new.0, new.1, new.2));
                refusals.observe(&ObjectChange::Applied(new, Some(old)), at);
                let nodes = refusals.nodes().into_values().flatten();
                nodes.collect::<Vec<String>>()
            };
        assert_eq!(change(("u", None), ("u", Some("n1"), None), now), [""; 0]);
        assert_eq!(change(("u", Some("n1")), ("u", None, None), now), ["n1"]);
        let later = now + Duration::from_secs(1);
        assert_eq!(change(("u", None), ("u", Some("n2"), None), later), ["n1"]);
        assert_eq!(
            change(("u", Some("n2")), ("u", None, None), later),
            ["n1", "n2"]
        );
        assert_eq!(refusals.next_end(), Some(now + REFUSED_FOR));
        assert!(refusals.expire(later).is_empty());
        let counted = refusals::counted(Budget::NodeChoices);
        assert!(counted >= 2, "{counted}");
        let ended = refusals.expire(now + REFUSED_FOR);
        assert_eq!(ended, BTreeSet::from(["default".to_owned()]));
        assert_eq!(refusals.next_end(), Some(later + REFUSED_FOR));
        // The claim has a volume now, or another claim has its name.
        for new in [("u", Some("n2"), Some("pv")), ("v", None, None)] {
            let mut refusals = Refusals::default();
            let changes = [("u", None, None), new];
            let mut old = claim("u", Some("n1"), None);
            for (uid, node, volume) in changes {
                let new = claim(uid, node, volume);
                refusals.observe(&ObjectChange::Applied(new.clone(), Some(old)), now);
                old = new;
            }
            assert!(refusals.nodes().is_empty());
        }
    }

    // findings-2 R30
    #[test]
    fn a_choice_that_was_taken_back_before_it_was_seen_is_a_refusal() {
        let at = |revision: u64, node: Option<&str>| {
            let mut claim = claim("u", node, None);
            Arc::make_mut(&mut claim).metadata.resource_version = Some(revision.to_string());
            claim
        };
        let now = Instant::now();
        let nodes = |refusals: &Refusals| -> Vec<String> {
            refusals.nodes().into_values().flatten().collect()
        };
        // The cache never shows the choice with revision 5: the claim changes from 4 to 6.
        let mut refusals = Refusals::default();
        refusals.wrote(&at(4, None), "n1".to_owned(), 5, now);
        assert_eq!(nodes(&refusals), [""; 0]);
        let change = ObjectChange::Applied(at(6, None), Some(at(4, None)));
        refusals.observe(&change, now);
        assert_eq!(nodes(&refusals), ["n1"]);
        // The response to the write arrives afterwards.
        let mut refusals = Refusals::default();
        refusals.observe(&change, now);
        assert_eq!(nodes(&refusals), [""; 0]);
        refusals.wrote(&at(6, None), "n1".to_owned(), 5, now);
        assert_eq!(nodes(&refusals), ["n1"]);
        // A choice that is still valid is no rejection, and neither is an earlier state.
        let mut refusals = Refusals::default();
        refusals.wrote(&at(4, None), "n1".to_owned(), 6, now);
        let earlier = ObjectChange::Applied(at(5, None), Some(at(4, None)));
        refusals.observe(&earlier, now);
        refusals.wrote(&at(6, Some("n1")), "n1".to_owned(), 6, now);
        assert_eq!(nodes(&refusals), [""; 0]);
    }
}
