//! The API server with its controllers and its scheduler: a cluster has one control plane.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod admin;
pub mod admin_kubeconfig;
mod announced;
pub mod backup_contents;
mod boot_clock;
mod cluster_network;
pub mod cluster_ranges;
mod credentials;
mod deciders;
mod default_class;
pub mod host;
mod listen;
mod live_servers;
mod memory;
mod protection;
mod relocation;
mod server;
pub mod shared_keys;
pub mod store;
mod store_address;
mod store_arguments;
mod store_metrics;
pub mod tasks;
mod vanished_keys;

use std::path::{Path, PathBuf};

use command_output::output::warn;
use leader_election::{Election, Lead};
use object_model::listening::Listening;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use volume_storage::Storage;

use admin::Admin;
pub use announced::announce_dns;
pub use cluster_network::{
    ClusterNetwork, KEY as NETWORK_RECORD, RequestedNetwork, agree as agree_on_network, all_pods,
    choose as choose_network, stored as stored_network,
};
use deciders::{LeaderParts, RunningLeaderParts};
pub use default_class::BuiltinClass;
use host::{Host, NodeAddress};
pub use listen::bind;
use live_servers::LiveServers;
pub use live_servers::addresses as live_addresses;
pub use protection::{Protection, ProtectionSettings};
pub use relocation::{DataLocation, Relocation};
pub use server::{LocalNode, Server, ServerConfig};
pub use shared_keys::TokenFile;
pub use store_address::{EtcdAddress, EtcdSettings, EtcdUrl};
pub use store_arguments::{StoreArguments, StoreSettings};
use tasks::TaskGroup;

/// A running API server with its controllers and its scheduler.
pub struct ControlPlane {
    pub server: Server,
    deciders: Deciding,
    /// The tasks of the administrator's socket. They use the volumes of the node, so they end before the
    /// volumes are closed.
    admin: TaskGroup,
    upkeep: TaskGroup,
}

/// The controllers and the scheduler, by the number of servers.
enum Deciding {
    /// The only server always leads.
    Always(RunningLeaderParts),
    /// The elected leader of several servers runs the parts.
    Elected(TaskGroup),
}

impl ControlPlane {
    /// Starts the controllers and the scheduler of a server, or the server's part in the leader election.
    /// `listening` are the ports on which programs of the machine of the only node listen.
    pub fn of(
        server: Server,
        listening: Option<watch::Receiver<Listening>>,
        failed: &CancellationToken,
    ) -> Self {
        let health = server.health();
        let deciders = LeaderParts::of(&server, listening, failed);
        let mut upkeep = TaskGroup::new(&health, failed);
        let deciders = match &server.identity {
            None => Deciding::Always(deciders.start(None)),
            Some(identity) => {
                let client = server.client("system:apiserver", &["system:masters"]);
                let servers = LiveServers::new(client.clone(), identity);
                let (credentials, others) = (server.credentials(), servers.others());
                upkeep.keep("servers in the kubeconfig", |stop| {
                    credentials.follow_servers(others, stop)
                });
                upkeep.keep("endpoints of the servers", |stop| servers.keep(stop));
                let holder = identity.of_this_process();
                let election = Election::new(client, holder, boot_clock::reading);
                let mut elected = TaskGroup::new(&health, failed);
                elected.keep("election of the leader", |stop| {
                    election.run(stop, move |term| deciders.start(Some(term)))
                });
                Deciding::Elected(elected)
            }
        };
        let mut control_plane = Self {
            deciders,
            admin: TaskGroup::new(&health, failed),
            upkeep,
            server,
        };
        control_plane.start_upkeep();
        control_plane
    }

    /// Stops all parts: first the controllers and the scheduler, so that they do not react to the pods that
    /// `nodes` stops, then the nodes of this process, then the API server.
    pub async fn stop(self, nodes: impl Future<Output = ()>) {
        match self.deciders {
            Deciding::Always(deciders) => deciders.end().await,
            Deciding::Elected(election) => election.end().await,
        }
        self.admin.end().await;
        nodes.await;
        self.upkeep.end().await;
        self.server.stop().await;
    }

    /// Renews the certificates of the server, and returns the memory of deleted objects to the machine.
    fn start_upkeep(&mut self) {
        let credentials = self.server.credentials();
        self.upkeep
            .keep("renewal of certificates", |stop| credentials.keep(stop));
        let store = self.server.store();
        self.upkeep
            .keep("memory", |stop| memory::keep_small(store, stop));
    }

    /// Updates the server's certificate and the address of the node of this process when the machine's
    /// addresses change.
    pub fn follow_addresses(&mut self, host: &Host, node: Option<NodeAddress>) {
        let (current, credentials) = (host.clone(), self.server.credentials());
        let report = move |host: &Host| {
            if let Err(error) = credentials.host_has(&host.addresses) {
                tracing::error!("the API server is not known by new addresses: {error:#}");
            }
            if let Some(node) = &node {
                node.follow(host);
            }
        };
        self.upkeep.keep("machine's addresses", |stop| {
            host::follow(current, stop, report)
        });
    }

    /// Serves the administrator's socket in the data directory, with the volumes of a node of this process. A failure
    /// does not affect other parts.
    pub fn serve_admin(
        &mut self,
        data: &Path,
        storage: Option<Storage>,
        configured_by: Vec<PathBuf>,
    ) {
        let listener = match admin::listen(data) {
            Ok(listener) => listener,
            Err(error) => {
                return warn(&format!(
                    "mainstay: backups of this server are not possible: {error}"
                ));
            }
        };
        let socket = data.join(backup_contents::SOCKET);
        let served = Admin {
            store: self.server.store(),
            storage,
            configured_by,
        };
        self.admin
            .keep("administrator's socket", |stop| async move {
                admin::serve(served, listener, stop).await;
                tokio::fs::remove_file(socket).await.ok();
            });
    }
}
