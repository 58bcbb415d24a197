//! The Lease of this server among those of all servers, and the endpoints of the Service `kubernetes`.
//!
//! [`controller_planners::live_servers`] decides which servers run; each server writes its observation, so
//! that the endpoints are correct as long as one server runs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use controller_planners::leader_election::HolderIdentity;
use controller_planners::live_servers::{
    ADDRESS, IDENTITY_LABEL, LENGTH, LiveServersPlan, NAMESPACE, RENEW, SERVICE, ServerLease, plan,
    slices, subsets,
};
use controller_planners::node_lifecycle::fence::Renewals;
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube_api_client::guarded_writes::{self, Delete};
use kube_api_client::{Api, Client, ListParams, Patch, PatchParams};
use object_model::ResourceVersion;
use resource_kinds::MetadataIdentity;
use resource_kinds::namespaces::KUBE_SYSTEM;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::boot_clock::reading;

/// The field manager of the Lease and the endpoints.
const MANAGER: &str = "mainstay-server";
/// Timeout of the last writes when a server stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// The identity of a server among the servers of a store.
#[derive(Clone, Debug)]
pub struct ServerIdentity {
    /// The name of its host.
    pub host_name: String,
    /// The address at which nodes and pods reach the server.
    pub address: SocketAddr,
}

impl ServerIdentity {
    /// The name of the server's Lease, in the form of KEP-1965. The hash contains host and address, because a
    /// host may have two servers.
    fn lease_name(&self) -> String {
        let hash = Sha256::digest(format!("{} {}", self.host_name, self.address));
        let digits = hash.iter().take(13).map(|byte| format!("{byte:02x}"));
        format!("apiserver-{}", digits.collect::<String>())
    }

    /// An identity that no other process has, not even on the same host.
    pub fn of_this_process(&self) -> HolderIdentity {
        HolderIdentity::of_process(&self.host_name, uuid::Uuid::new_v4())
    }
}

/// The running servers of a cluster, as this server observes them.
pub struct LiveServers {
    client: Client,
    name: String,
    holder: String,
    identity: ServerIdentity,
    /// By the resourceVersion of each lease.
    renewals: Renewals<ResourceVersion>,
    others: watch::Sender<Vec<SocketAddr>>,
}

/// The addresses of the servers with a Lease.
///
/// # Errors
/// Errors of the API.
pub async fn addresses(client: &Client) -> kube_api_client::Result<Vec<SocketAddr>> {
    let listed = list(client).await?;
    let addresses = listed.iter().filter_map(|lease| lease.address);
    let mut addresses: Vec<SocketAddr> = addresses.collect();
    addresses.sort_unstable();
    Ok(addresses)
}

async fn list(client: &Client) -> kube_api_client::Result<Vec<ServerLease>> {
    let (key, value) = IDENTITY_LABEL;
    let only = ListParams::default().labels(&format!("{key}={value}"));
    let listed = leases(client).list(&only).await?;
    let leases = listed.items.iter().map(ServerLease::try_from);
    Ok(leases.collect::<Result<_, _>>()?)
}

fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), KUBE_SYSTEM)
}

impl LiveServers {
    /// This server; other servers are not known yet.
    pub fn new(client: Client, identity: &ServerIdentity) -> Self {
        let name = identity.lease_name();
        Self {
            client,
            holder: format!("{name}_{}", uuid::Uuid::new_v4()),
            name,
            identity: identity.clone(),
            renewals: Renewals::default(),
            others: watch::Sender::default(),
        }
    }

    /// A receiver of the addresses of the other running servers.
    pub fn others(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.others.subscribe()
    }

    /// Renews the Lease and updates the endpoints until `stop`; then removes this server from them.
    pub async fn keep(mut self, stop: CancellationToken) {
        let period = Duration::try_from(RENEW).unwrap_or_default();
        loop {
            let round = stop.run_until_cancelled(self.round()).await;
            match round {
                None => break,
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::warn!("the endpoints of the servers: {error}"),
            }
            let pause = tokio::time::sleep(period);
            if stop.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
        match tokio::time::timeout(FAREWELL, self.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("this server stays in the endpoints: {error}"),
            Err(_) => {
                tracing::warn!("this server stays in the endpoints until its Lease has lapsed")
            }
        }
    }

    async fn round(&mut self) -> kube_api_client::Result<()> {
        self.renew().await?;
        let LiveServersPlan { live, dead } = self.observe().await?;
        self.publish(&live).await?;
        self.publish_others(&live);
        for lease in dead {
            tracing::warn!(address = ?lease.address, "a server has not renewed its Lease");
            let how = Delete {
                uid: Some(lease.uid),
                resource_version: Some(lease.version),
                ..Delete::default()
            };
            guarded_writes::delete(&leases(&self.client), &lease.name, how).await?;
        }
        Ok(())
    }

    fn publish_others(&self, live: &[SocketAddr]) {
        let mut others = live.to_vec();
        others.retain(|address| *address != self.identity.address);
        others.sort_unstable();
        self.others.send_if_modified(|published| {
            let is_changed = *published != others;
            *published = others;
            is_changed
        });
    }

    async fn observe(&mut self) -> kube_api_client::Result<LiveServersPlan> {
        let listed = list(&self.client).await?;
        let now = reading();
        self.renewals
            .retain(|name| listed.iter().any(|lease| lease.name == name));
        let renewals = &mut self.renewals;
        let leases = listed.into_iter().map(|lease| {
            let unchanged_for = renewals.unchanged_for(&lease.name, &lease.version, now);
            (lease, unchanged_for)
        });
        Ok(plan(&self.name, self.identity.address, leases))
    }

    async fn renew(&self) -> kube_api_client::Result<()> {
        let (key, value) = IDENTITY_LABEL;
        let labels = [
            (key, value),
            ("kubernetes.io/hostname", &self.identity.host_name),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(KUBE_SYSTEM.to_owned()),
                labels: Some(BTreeMap::from(labels)),
                annotations: Some(BTreeMap::from([(
                    ADDRESS.to_owned(),
                    self.identity.address.to_string(),
                )])),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.holder.clone()),
                lease_duration_seconds: i32::try_from(LENGTH.as_secs()).ok(),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        // Creates the Lease, too.
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(lease);
        let applied = leases(&self.client)
            .patch(&self.name, &params, &patch)
            .await;
        applied.map(drop)
    }

    /// Writes Endpoints and slices if they differ from the running servers.
    async fn publish(&self, live: &[SocketAddr]) -> kube_api_client::Result<()> {
        let endpoints: Api<Endpoints> = Api::namespaced(self.client.clone(), NAMESPACE);
        let desired = Some(subsets(live));
        let existing = endpoints.get_opt(SERVICE).await?;
        if existing.is_none_or(|existing| existing.subsets != desired) {
            let object = json!({
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": {
                    "name": SERVICE,
                    "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
                },
                "subsets": desired,
            });
            apply(&endpoints, SERVICE, object).await?;
        }
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        let only = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
        let mut listed = api.list(&only).await?.items;
        for slice in slices(live) {
            let name = slice.metadata.name.clone().unwrap_or_default();
            let at = listed
                .iter()
                .position(|one| one.metadata.name.as_ref() == Some(&name));
            let existing = at.map(|at| listed.swap_remove(at));
            let same = |existing: &EndpointSlice| {
                existing.endpoints == slice.endpoints && existing.ports == slice.ports
            };
            if !existing.is_some_and(|existing| same(&existing)) {
                let object = json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"name": name, "labels": slice.metadata.labels},
                    "addressType": slice.address_type,
                    "endpoints": slice.endpoints,
                    "ports": slice.ports,
                });
                apply(&api, &name, object).await?;
            }
        }
        // Removes slices for ports that no server has any more.
        for slice in listed {
            let how = Delete::of_uid(slice.metadata.object_uid()?);
            guarded_writes::delete(&api, slice.metadata.object_name()?, how).await?;
        }
        Ok(())
    }

    /// Deletes this server's Lease; removes its address from the endpoints if another server has one.
    async fn leave(&mut self) -> kube_api_client::Result<()> {
        let lease = leases(&self.client).get_opt(&self.name).await?;
        let lease = lease.filter(|lease| {
            let spec = lease.spec.as_ref();
            spec.and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.holder)
        });
        let Some(lease) = lease else {
            return Ok(());
        };
        let uid = lease.metadata.object_uid()?;
        guarded_writes::delete(&leases(&self.client), &self.name, Delete::of_uid(uid)).await?;
        let mut live = self.observe().await?.live;
        live.retain(|address| *address != self.identity.address);
        if live.is_empty() {
            return Ok(());
        }
        self.publish(&live).await
    }
}

async fn apply<K: kube_api_client::Object>(
    api: &Api<K>,
    name: &str,
    object: Value,
) -> kube_api_client::Result<()> {
    let params = PatchParams::apply(MANAGER).force();
    api.patch(name, &params, &Patch::Apply(object))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests;
