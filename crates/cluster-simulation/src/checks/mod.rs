//! Checks every write to the store, in order, and reports the violated promises.
//!
//! The checks do not have the caches from which a controller decided a write, only the maximum age of the caches
//! (`staleness`, which is much shorter without faults). So a write is wrong if no state within that time justifies the
//! write. The check that no identity has two instances is at the start of an instance ([`crate::instances`]), and needs
//! no such tolerance.

mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller_planners::stateful_set::identity;
use json_tree::Value;
use mvcc_store::{Event, EventKind, WatchEvents};
use tokio::time::Instant;

use crate::instances::Identity;
use crate::trace;
use history::{PodRecord, SetRecord, Version, uid_of};

/// The checks of a world. Clones share the checks.
#[derive(Clone)]
pub struct Checks(Arc<Mutex<State>>);

struct State {
    staleness: Duration,
    /// Whether all nodes are always healthy, so that no node may be treated as lost.
    nodes_are_healthy: bool,
    /// Sets by UID, including deleted sets.
    sets: BTreeMap<String, SetRecord>,
    pods: BTreeMap<String, PodRecord>,
    /// Claims by UID: their name, and their time of creation.
    claims: BTreeMap<String, (Identity, Instant)>,
    /// The last time at which the pod of a name was Ready; `None` while it is Ready.
    ready: BTreeMap<Identity, Option<Instant>>,
    /// The last time at which a node was lost; `None` while it is lost.
    lost: BTreeMap<String, Option<Instant>>,
    deleted_by_user: BTreeSet<String>,
}

impl Checks {
    /// Checks that tolerate decisions from caches as old as `staleness`. If all nodes are healthy, no node may be
    /// treated as lost.
    pub fn new(staleness: Duration, nodes_are_healthy: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            staleness,
            nodes_are_healthy,
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            ready: BTreeMap::new(),
            lost: BTreeMap::new(),
            deleted_by_user: BTreeSet::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the user is about to delete this object.
    pub fn record_user_deletion(&self, uid: &str) {
        self.state().deleted_by_user.insert(uid.to_owned());
    }

    /// Checks a commit.
    pub fn check_commit(&self, change: &WatchEvents) {
        let WatchEvents::Events(events) = change else {
            return;
        };
        for event in events {
            self.state().check_event(event);
        }
    }
}

impl State {
    fn check_event(&mut self, event: &Event) {
        let key = String::from_utf8_lossy(&event.key).into_owned();
        let parse = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
        let (new, size) = match &event.kind {
            EventKind::Put(item) => (parse(&item.value), item.value.len()),
            EventKind::Delete => (Value::Null, 0),
        };
        let old = event
            .previous
            .as_ref()
            .map_or(Value::Null, |old| parse(&old.value));
        trace!("{} {key} {size}", event.revision.0);
        let kind = if new.is_null() {
            &old["kind"]
        } else {
            &new["kind"]
        };
        match kind.as_str().unwrap_or_default() {
            "StatefulSet" => self.check_set(&old, &new),
            "Pod" => self.check_pod(&old, &new),
            "PersistentVolumeClaim" => self.check_claim(&old, &new),
            "PersistentVolume" => self.check_volume(&old, &new),
            "Node" => self.check_node(&old, &new),
            _ => {}
        }
    }

    fn check_set(&mut self, old: &Value, new: &Value) {
        let now = Instant::now();
        if new.is_null() {
            if let Some(record) = self.sets.get_mut(&uid_of(old)) {
                record.deleted_at = Some(now);
            }
            return;
        }
        let record = self
            .sets
            .entry(uid_of(new))
            .or_insert_with(|| SetRecord::of(new));
        record.push(Version::of(new), now);
        check_status(old, new);
    }

    /// A node without its object counts as lost.
    fn check_node(&mut self, old: &Value, new: &Value) {
        let object = if new.is_null() { old } else { new };
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let ready = history::condition(new, "Ready");
        if self.nodes_are_healthy && ready == Some(false) {
            trace::broken(format!("{name} is called lost and is well"));
        }
        if ready == Some(true) {
            let since = self
                .lost
                .entry(name.to_owned())
                .or_insert(Some(Instant::now()));
            since.get_or_insert_with(Instant::now);
        } else {
            self.lost.insert(name.to_owned(), None);
        }
    }

    fn check_pod(&mut self, old: &Value, new: &Value) {
        let now = Instant::now();
        let object = if new.is_null() { old } else { new };
        let identity = history::identity_of(object);
        let uid = uid_of(object);
        let is_new = !self.pods.contains_key(&uid);
        let before = self.pods.get(&uid).cloned();
        let record = PodRecord::of(object, before.as_ref(), now);
        let is_deleted = new.is_null() || record.deleting;
        if is_new {
            self.check_creation(&identity, &record);
        }
        if is_deleted && before.is_none_or(|before| !before.deleting) {
            self.check_deletion(&identity, &uid, &record);
        }
        let ready = !new.is_null() && record.ready;
        let ready_before = self.ready.get(&identity).copied();
        match (ready, ready_before) {
            (true, _) => drop(self.ready.insert(identity, None)),
            (false, Some(None)) => drop(self.ready.insert(identity, Some(now))),
            (false, _) => {}
        }
        if new.is_null() {
            self.pods.remove(&uid);
        } else {
            self.pods.insert(uid, record);
        }
    }

    fn recently(&self, until: Option<Instant>) -> bool {
        until.is_none_or(|at| at + self.staleness >= Instant::now())
    }

    /// Whether the pod of that ordinal was Ready at a time that the controller may have observed.
    fn was_ready(&self, namespace: &str, set: &str, ordinal: i64) -> bool {
        let identity = (namespace.to_owned(), identity::pod_name(set, ordinal));
        let ready = self.ready.get(&identity);
        ready.is_some_and(|until| self.recently(*until))
    }

    /// A pod is created only for a desired ordinal; in an ordered set only when all lower pods are Ready.
    fn check_creation(&self, identity: &Identity, pod: &PodRecord) {
        let Some(set) = pod.owner.as_ref().and_then(|uid| self.sets.get(uid)) else {
            return;
        };
        let Some(ordinal) = identity::ordinal(&set.name, &identity.1) else {
            return;
        };
        let versions = set.recent(self.staleness);
        if !versions.iter().any(|version| version.desires(ordinal)) {
            trace::broken(format!("{} is created and not wanted", identity.1));
        }
        let in_order = |version: &Version| {
            let mut lower = version.start..ordinal;
            version.desires(ordinal)
                && lower.all(|lower| self.was_ready(&identity.0, &set.name, lower))
        };
        let ordered = versions.iter().all(|version| version.ordered);
        if ordered && !versions.iter().any(in_order) {
            trace::broken(format!(
                "{} is created before all lower ones are ready",
                identity.1
            ));
        }
    }

    /// A pod is deleted only by the user, with its set, because it has ended, because its node is lost, because it is
    /// surplus or because it is outdated; surplus and outdated pods are deleted in order.
    fn check_deletion(&self, identity: &Identity, uid: &str, pod: &PodRecord) {
        let lost = pod.node.as_ref().and_then(|node| self.lost.get(node));
        if self.deleted_by_user.contains(uid)
            || pod.ended
            || lost.is_some_and(|until| self.recently(*until))
        {
            return;
        }
        let Some(set) = pod.owner.as_ref().and_then(|uid| self.sets.get(uid)) else {
            // A decision from before the release may take effect a moment later: as in Kubernetes, a deletion names the
            // pod, not its version.
            if pod.released_at.is_none() || !self.recently(pod.released_at) {
                trace::broken(format!("{} is deleted and is nobody's", identity.1));
            }
            return;
        };
        if set.is_ending() {
            return;
        }
        let ordinal = identity::ordinal(&set.name, &identity.1).unwrap_or(-1);
        let versions = set.recent(self.staleness);
        let surplus = versions.iter().any(|version| !version.desires(ordinal));
        let outdated = versions
            .iter()
            .any(|version| version.may_update(ordinal, pod, self.staleness));
        if !surplus && !outdated {
            let violation = format!(
                "{} ({}) is deleted and is as wanted",
                identity.1, pod.template_label
            );
            trace::broken(violation);
            return;
        }
        let higher = self
            .pods
            .values()
            .filter(|other| other.owner == pod.owner && !other.deleting && self.is_settled(other));
        for other in higher {
            let number = identity::ordinal(&set.name, &other.name).unwrap_or(-1);
            let surplus_too = versions.iter().all(|version| !version.desires(number));
            if number > ordinal
                && surplus
                && !outdated
                && surplus_too
                && versions.iter().all(|version| version.ordered)
            {
                let (name, other) = (&identity.1, &other.name);
                trace::broken(format!("{name} is deleted before the higher {other}"));
            }
        }
        if pod.ready && outdated && !surplus {
            self.check_update_order(identity, set, ordinal, &versions);
        }
    }

    fn is_settled(&self, pod: &PodRecord) -> bool {
        pod.observed_at + self.staleness < Instant::now()
    }

    /// A healthy pod is deleted for an update only if all higher pods are healthy.
    fn check_update_order(
        &self,
        identity: &Identity,
        set: &SetRecord,
        ordinal: i64,
        versions: &[Version],
    ) {
        if versions.iter().any(|version| version.max_unavailable) {
            return;
        }
        let end = versions
            .iter()
            .map(|version| version.start + version.replicas)
            .min();
        for higher in ordinal + 1..end.unwrap_or_default() {
            let name = identity::pod_name(&set.name, higher);
            let mut namesakes = self.pods.values().filter(|pod| pod.name == name);
            let exists_for_long = namesakes.any(|pod| self.is_settled(pod));
            if exists_for_long && !self.was_ready(&identity.0, &set.name, higher) {
                trace::broken(format!(
                    "{} is updated while {name} is not ready",
                    identity.1
                ));
            }
        }
    }

    fn check_claim(&mut self, old: &Value, new: &Value) {
        let object = if new.is_null() { old } else { new };
        let (uid, identity) = (uid_of(object), history::identity_of(object));
        let since = self
            .claims
            .entry(uid.clone())
            .or_insert((identity.clone(), Instant::now()))
            .1;
        let is_marked = |value: &Value| !value["metadata"]["deletionTimestamp"].is_null();
        let is_deleted_now = (new.is_null() || is_marked(new)) && !is_marked(old);
        if is_deleted_now
            && !self.deleted_by_user.contains(&uid)
            && !self.may_be_deleted(&identity, since)
        {
            trace::broken(format!(
                "claim {} is deleted against the policy",
                identity.1
            ));
        }
        if new.is_null() {
            self.claims.remove(&uid);
        }
    }

    /// Whether a set that may own the claim has demanded the deletion of the claim since its creation.
    fn may_be_deleted(&self, (namespace, name): &Identity, since: Instant) -> bool {
        let mut sets = self.sets.values().filter(|set| set.namespace == *namespace);
        sets.any(|set| {
            let stem = format!("data-{}", set.name);
            let ordinal = identity::ordinal(&stem, name);
            ordinal.is_some_and(|ordinal| set.has_released_claims(ordinal, since, self.staleness))
        })
    }

    /// A volume is deleted only after its claim.
    fn check_volume(&mut self, old: &Value, new: &Value) {
        let claim = old["spec"]["claimRef"]["uid"].as_str().unwrap_or_default();
        if new.is_null() && self.claims.contains_key(claim) {
            let name = &old["metadata"]["name"];
            trace::broken(format!("volume {name} is deleted before its claim"));
        }
    }
}

/// statefulset.md 5.17: the counters and conditions of a status are consistent.
fn check_status(old: &Value, new: &Value) {
    let number = |object: &Value, field: &str| object["status"][field].as_i64().unwrap_or_default();
    let [all, ready, available, current, updated, observed] = [
        "replicas",
        "readyReplicas",
        "availableReplicas",
        "currentReplicas",
        "updatedReplicas",
        "observedGeneration",
    ]
    .map(|field| number(new, field));
    let generation = new["metadata"]["generation"].as_i64().unwrap_or_default();
    let is_consistent = [ready, available, current, updated]
        .iter()
        .all(|part| (0..=all).contains(part))
        && available <= ready
        && observed <= generation
        && observed >= number(old, "observedGeneration");
    if !is_consistent {
        trace::broken(format!("status makes no sense: {}", new["status"]));
    }
}
