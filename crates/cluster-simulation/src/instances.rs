//! The instances of pods that run on nodes, independent of the API's state.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::node::MachineLease;
use crate::trace;

/// Identity of an instance: namespace and name of the pod.
pub type Identity = (String, String);

/// A pod's containers on a node, from their start until they have ended.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The name of the node.
    pub node: String,
    /// The pod's UID.
    pub uid: String,
    /// The time at which the instance becomes ready, without faults.
    pub ready_at: Instant,
    /// The time at which the instance ends, if it is terminating.
    pub ends_at: Option<Instant>,
    /// The lease of its node, if the instance ends with the lease.
    pub lease: Option<MachineLease>,
}

impl Instance {
    /// Whether a container of the instance still runs.
    pub fn runs(&self, now: Instant) -> bool {
        self.ends_at.is_none_or(|at| now < at) && !self.has_lapsed(now)
    }

    /// Whether the instance has ended with the lease of its node.
    pub fn has_lapsed(&self, now: Instant) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|lease| !lease.allows_running(now))
    }
}

/// All instances on all nodes.
#[derive(Clone, Default)]
pub struct Instances(Arc<Mutex<BTreeMap<Identity, Vec<Instance>>>>);

impl Instances {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Identity, Vec<Instance>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the start of an instance. A violation is reported here if another instance of the identity runs
    /// on any node.
    pub fn start(&self, identity: &Identity, instance: Instance) {
        let now = Instant::now();
        let mut all = self.all();
        let instances = all.entry(identity.clone()).or_default();
        for other in instances.iter().filter(|other| other.runs(now)) {
            trace::broken(format!(
                "{}/{} has two running instances: {} on {} and now {} on {}",
                identity.0, identity.1, other.uid, other.node, instance.uid, instance.node
            ));
        }
        trace!("{} starts {} ({})", instance.node, identity.1, instance.uid);
        // A node remembers ended instances, as an agent does on its disk: an instance whose object still exists must
        // not be started again.
        instances.retain(|other| other.node != instance.node || other.uid != instance.uid);
        instances.push(instance);
    }

    /// The instance of a pod on a node.
    pub fn of(&self, node: &str, identity: &Identity, uid: &str) -> Option<Instance> {
        let all = self.all();
        let mut instances = all.get(identity)?.iter();
        instances
            .find(|instance| instance.node == node && instance.uid == uid)
            .cloned()
    }

    /// The running instances of an identity on a node.
    pub fn running(&self, node: &str, identity: &Identity) -> Vec<Instance> {
        let now = Instant::now();
        let all = self.all();
        let instances = all.get(identity).into_iter().flatten();
        let on_node = instances.filter(|instance| instance.node == node && instance.runs(now));
        on_node.cloned().collect()
    }

    /// The identities with instances on a node.
    pub fn on(&self, node: &str) -> Vec<Identity> {
        let now = Instant::now();
        let runs_on_node = |instance: &Instance| instance.node == node && instance.runs(now);
        let all = self.all();
        let on_node = all
            .iter()
            .filter(|(_, instances)| instances.iter().any(runs_on_node));
        on_node.map(|(identity, _)| identity.clone()).collect()
    }

    /// Changes the instance of a pod, if it exists.
    pub fn change(&self, node: &str, uid: &str, change: impl Fn(&mut Instance)) {
        let mut all = self.all();
        for instance in all.values_mut().flatten() {
            if instance.node == node && instance.uid == uid {
                change(instance);
            }
        }
    }

    /// Ends all instances on a node at once: a power failure.
    pub fn end_all(&self, node: &str) {
        let mut all = self.all();
        for instances in all.values_mut() {
            instances.retain(|instance| instance.node != node);
        }
    }

    /// Ends the instances on a node that end with the lease of the node.
    pub fn end_leased(&self, node: &str) {
        let mut all = self.all();
        for instances in all.values_mut() {
            instances.retain(|instance| instance.node != node || instance.lease.is_none());
        }
    }

    /// Removes an ended instance.
    pub fn remove_ended(&self, node: &str, identity: &Identity, uid: &str) {
        let mut all = self.all();
        if let Some(instances) = all.get_mut(identity) {
            instances.retain(|instance| instance.node != node || instance.uid != uid);
            if instances.is_empty() {
                all.remove(identity);
            }
        }
    }
}
