//! Watches NetworkPolicies, and the namespaces and pods that they select, and computes the filters of this
//! node's pods.
//!
//! The pods of the whole cluster are watched only after the first policy exists. A pod of this node is
//! recognised by the address that the node has assigned, before the pod's status has that address. The
//! containers of a pod start after [`LocalPods::guarded`] contains the pod, which is after the kernel has
//! its filters.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use controller_framework::{Cache, Changes, ObjectChange};
use host_kernel::{Interrupted, blocking_value};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube_api_client::Client;
use process_telemetry::Component;
use process_telemetry::polls::spend;
use resource_kinds::pod_view::PodView;
use service_routing::{Policy, PolicyObjects, PolicyPod, Table, filters};
use tokio::sync::watch;

/// Addresses of pods, by UID.
pub type PodAddresses = BTreeMap<String, Ipv4Addr>;

/// The pods of this node, whose connections are filtered.
#[derive(Clone, Debug)]
pub struct LocalPods {
    /// The pods that are connected.
    pub connected: watch::Receiver<PodAddresses>,
    /// The connected pods whose filters are in the kernel; `None` while there is no policy.
    pub guarded: watch::Sender<Option<PodAddresses>>,
}

/// The caches from which filters are computed.
pub struct PolicySources {
    /// The NetworkPolicies of all namespaces.
    pub policies: Cache<NetworkPolicy>,
    /// Starts the caches of pods and namespaces when the first policy exists.
    pub peers: Box<dyn FnOnce() -> Peers + Send>,
}

/// The caches of the objects that policies select.
pub struct Peers {
    /// The pods of all namespaces.
    pub pods: Cache<PodView>,
    /// The Namespace objects.
    pub namespaces: Cache<Namespace>,
}

impl PolicySources {
    /// Starts a watch of NetworkPolicies.
    pub fn watch(client: &Client, component: &Component) -> PolicySources {
        let (policies, client, component) = (
            Cache::spawn_all(client, component),
            client.clone(),
            component.clone(),
        );
        let peers = move || Peers {
            pods: Cache::of_pods(&client, &component),
            namespaces: Cache::spawn_all(&client, &component),
        };
        PolicySources {
            policies,
            peers: Box::new(peers),
        }
    }
}

/// The policies, and the objects that they select.
pub(crate) struct PolicyChanges {
    policies: Cache<NetworkPolicy>,
    of_policies: Changes<NetworkPolicy>,
    /// Set until the first policy exists.
    start_peers: Option<Box<dyn FnOnce() -> Peers + Send>>,
    /// Set after the first policy exists.
    peers: Option<Following>,
    node_name: String,
    local: LocalPods,
    /// All pods, by UID. A deleted pod stays while it is connected.
    views: BTreeMap<String, Arc<PodView>>,
    state: PolicyObjects,
    /// Whether the state differs from the state of the last computation.
    differs: bool,
}

struct Following {
    peers: Peers,
    of_pods: Changes<PodView>,
    of_namespaces: Changes<Namespace>,
}

impl Following {
    fn is_synced(&self) -> bool {
        self.peers.pods.is_synced() && self.peers.namespaces.is_synced()
    }

    async fn wait_synced(&self) -> bool {
        self.peers.pods.wait_synced().await && self.peers.namespaces.wait_synced().await
    }
}

impl PolicyChanges {
    pub(crate) fn new(sources: PolicySources, node_name: &str, local: LocalPods) -> PolicyChanges {
        PolicyChanges {
            of_policies: sources.policies.subscribe(),
            policies: sources.policies,
            start_peers: Some(sources.peers),
            peers: None,
            node_name: node_name.to_owned(),
            local,
            views: BTreeMap::new(),
            state: PolicyObjects::default(),
            differs: false,
        }
    }

    /// Waits until filters can be computed; `false` if a cache stopped before.
    pub(crate) async fn wait_synced(&mut self) -> bool {
        if !self.policies.wait_synced().await {
            return false;
        }
        self.read().await;
        match &self.peers {
            Some(following) => following.wait_synced().await,
            None => true,
        }
    }

    /// Waits for a change that may matter. Never returns after the caches have stopped.
    pub(crate) async fn wait(&mut self) {
        let is_synced = self.peers.as_ref().is_none_or(Following::is_synced);
        match &mut self.peers {
            Some(following) if !is_synced => tokio::select! {
                true = following.wait_synced() => {}
                else => std::future::pending().await,
            },
            Some(following) => tokio::select! {
                Some(change) = self.of_policies.next() => self.note_policy(&change),
                Some(change) = following.of_pods.next() => self.note_pod(&change),
                Some(change) = following.of_namespaces.next() => self.note_namespace(&change),
                Ok(()) = self.local.connected.changed() => self.note_connected(),
                else => std::future::pending().await,
            },
            None => match self.of_policies.next().await {
                Some(change) => self.note_policy(&change),
                None => std::future::pending().await,
            },
        }
    }

    /// Computes the filters; `None` if they have not changed, or if a cache is not complete yet.
    ///
    /// # Errors
    /// The thread of the computation panicked.
    pub(crate) async fn changed_filters(&mut self) -> Result<Option<Table>, Interrupted> {
        self.read().await;
        let is_known = self.peers.as_ref().is_none_or(Following::is_synced);
        if !self.differs || !is_known {
            return Ok(None);
        }
        let state = std::mem::take(&mut self.state);
        let compute = move || {
            let table = filters(&state);
            (state, table)
        };
        let (state, table) = blocking_value(compute).await?;
        self.state = state;
        self.differs = false;
        Ok(Some(table))
    }

    /// The state from which filters are computed.
    pub(crate) fn state(&self) -> &PolicyObjects {
        &self.state
    }

    /// Sets the policies that allow nothing, because the kernel rejects them.
    pub(crate) fn leave_out(&mut self, uids: BTreeSet<String>) {
        self.differs |= self.state.left_out != uids;
        self.state.left_out = uids;
    }

    /// Reports the pods whose filters are in the kernel: all pods of the last computation.
    pub(crate) fn report(&self) {
        if self.differs {
            return;
        }
        let connected = self.local.connected.borrow();
        let is_local_pod = |uid: &String, address: Ipv4Addr| {
            let pod = self.state.pods.get(uid);
            pod.is_some_and(|pod| pod.is_local && pod.address == address)
        };
        let guarded = (!self.state.policies.is_empty()).then(|| {
            let pods = connected.iter();
            let pods = pods.filter(|(uid, address)| is_local_pod(uid, **address));
            pods.map(|(uid, address)| (uid.clone(), *address)).collect()
        });
        drop(connected);
        self.local.guarded.send_if_modified(|before| {
            let differs = *before != guarded;
            *before = guarded;
            differs
        });
    }

    /// Reads all waiting changes of the caches.
    async fn read(&mut self) {
        while let Some(change) = self.of_policies.ready() {
            self.note_policy(&change);
            spend(1).await;
        }
        loop {
            let Some(following) = &mut self.peers else {
                return;
            };
            if let Some(change) = following.of_namespaces.ready() {
                self.note_namespace(&change);
            } else if let Some(change) = following.of_pods.ready() {
                self.note_pod(&change);
            } else {
                break;
            }
            spend(1).await;
        }
        self.note_connected();
    }

    fn note_policy(&mut self, change: &ObjectChange<NetworkPolicy>) {
        let policy = Policy::of(change.object());
        let uid = policy.uid.clone();
        self.differs |= match change {
            ObjectChange::Applied(..) => {
                let before = self.state.policies.insert(uid.clone(), policy);
                before.as_ref() != self.state.policies.get(&uid)
            }
            ObjectChange::Deleted(_) => self.state.policies.remove(&uid).is_some(),
        };
        if self.state.policies.is_empty() {
            return;
        }
        // From now on, starting pods wait for their filters.
        self.local.guarded.send_if_modified(|guarded| {
            let first = guarded.is_none();
            guarded.get_or_insert_default();
            first
        });
        if let Some(start) = self.start_peers.take() {
            let peers = start();
            self.peers = Some(Following {
                of_pods: peers.pods.subscribe(),
                of_namespaces: peers.namespaces.subscribe(),
                peers,
            });
        }
    }

    fn note_namespace(&mut self, change: &ObjectChange<Namespace>) {
        let metadata = &change.object().metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let all = &mut self.state.namespaces;
        self.differs |= match change {
            ObjectChange::Applied(..) => {
                let labels = metadata.labels.clone().unwrap_or_default();
                let before = all.insert(name.clone(), labels);
                before.as_ref() != all.get(&name)
            }
            ObjectChange::Deleted(_) => all.remove(&name).is_some(),
        };
    }

    fn note_pod(&mut self, change: &ObjectChange<PodView>) {
        let uid = change.object().uid.to_string();
        match change {
            ObjectChange::Applied(pod, _) => {
                self.views.insert(uid.clone(), pod.clone());
            }
            ObjectChange::Deleted(_) if !self.local.connected.borrow().contains_key(&uid) => {
                self.views.remove(&uid);
            }
            ObjectChange::Deleted(_) => {}
        }
        self.note_facts(&uid);
    }

    /// Reads the addresses of this node's pods.
    fn note_connected(&mut self) {
        let connected = self.local.connected.borrow_and_update().clone();
        let pods = self.state.pods.iter();
        let local = pods.filter(|(_, pod)| pod.is_local);
        let deleted = local.filter(|(uid, _)| !connected.contains_key(*uid));
        let deleted: Vec<String> = deleted.map(|(uid, _)| uid.clone()).collect();
        for uid in &deleted {
            let is_stored =
                |view: &Arc<PodView>| self.stored(view).is_some_and(|pod| pod.uid == view.uid);
            if !self.views.get(uid).is_some_and(is_stored) {
                self.views.remove(uid);
            }
        }
        for uid in connected.keys().chain(&deleted) {
            self.note_facts(uid);
        }
    }

    /// The newest pod with the name of `view`.
    fn stored(&self, view: &PodView) -> Option<Arc<PodView>> {
        let following = self.peers.as_ref()?;
        following.peers.pods.get_key(&view.key())
    }

    /// Updates the properties of a pod that policies read. The address in the status of a pod of this node
    /// may already belong to another pod, so only the address of its connection is used.
    fn note_facts(&mut self, uid: &String) {
        let local = self.local.connected.borrow().get(uid).copied();
        let is_here = |view: &PodView| view.node.as_deref() == Some(self.node_name.as_str());
        let view = self.views.get(uid);
        let view = view.filter(|view| local.is_some() || !is_here(view));
        let pods = &mut self.state.pods;
        self.differs |= match view.and_then(|view| PolicyPod::of(view, local)) {
            Some(pod) if pods.get(uid) == Some(&pod) => false,
            Some(pod) => {
                pods.insert(uid.clone(), pod);
                true
            }
            None => pods.remove(uid).is_some(),
        };
    }
}
