//! The start of a node in its cluster: a machine joins with a token, or uses the membership of an earlier
//! start; then it registers the node.

use std::time::Duration;

use command_output::failed_step::{FailedStep, StepContext};
use command_output::output::print_line;
use control_plane::cluster_ranges::{ClusterRanges, DNS_SERVICE};
use host_kernel::block_in_place;
use http::Uri;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service};
use kube_api_client::guarded_writes::chain;
use kube_api_client::{Api, Client};
use node_agent::{NewNode, ServingCertificate};
use node_identity::{Error, Identity, JoinToken, Joined, Servers, Validity, join, renewed_client};
use object_model::NodeName;
use pod_network::Cidr;
use process_telemetry::backoff;
use resource_kinds::namespaces::KUBE_SYSTEM;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::error::{MembershipError, Result};
use crate::membership::{Membership, MembershipStore};
use crate::version;

/// Time between two attempts to reach a server.
const RETRY: Duration = Duration::from_secs(1);
/// Time after which a message says that the server does not respond.
const SILENCE: Duration = Duration::from_secs(10);

/// Timeout of the wait for a server before the agent adopts the pods of a former agent without a server. A
/// client changes to another server within this time, if a server refuses connections.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reports once that no server responds.
struct Waiting {
    since: Instant,
    is_reported: bool,
}

impl Waiting {
    fn begin() -> Self {
        Self {
            since: Instant::now(),
            is_reported: false,
        }
    }

    async fn wait(&mut self, error: &MembershipError) {
        if !self.is_reported && self.since.elapsed() >= SILENCE {
            self.is_reported = true;
            print_line(&format!(
                "mainstay: waiting for the server: {}",
                chain(error)
            ));
        }
        tokio::time::sleep(backoff::jittered(RETRY)).await;
    }
}

/// The settings of the user for joining a cluster.
#[derive(Clone, Debug, Default)]
pub struct JoinSettings {
    /// The servers that the user named.
    pub servers: Vec<Uri>,
    pub token: Option<JoinToken>,
    /// The name of the node, if it differs from the machine's name.
    pub node_name: Option<String>,
}

/// Returns the stored membership of this machine: that of an earlier start, or a new membership with the
/// token. Waits for a server.
///
/// # Errors
/// The machine cannot join; each reason has a separate text.
pub async fn membership(
    membership_store: &MembershipStore,
    settings: &JoinSettings,
    machine: &str,
) -> Result<(Membership, Identity)> {
    let stored = block_in_place(|| membership_store.read())?;
    let now = Timestamp::now();
    match (stored, &settings.token) {
        (Some((membership, identity)), token) => {
            if let Some(name) = settings.node_name.as_ref()
                && *name != membership.node_name
            {
                return Err(MembershipError::OtherName {
                    requested: name.clone(),
                    stored: membership.node_name,
                });
            }
            match (expired(&identity, now), token) {
                (None, _) => {
                    let membership = with_servers(membership, settings);
                    block_in_place(|| membership_store.write(&membership))?;
                    Ok((membership, identity))
                }
                (Some(error), None) => Err(error.into()),
                (Some(_), Some(token)) => {
                    let name = membership.node_name.clone();
                    let mut next =
                        new(&with_servers(membership.clone(), settings), token, &name).await?;
                    next.0.copy_ranges(&membership);
                    store(membership_store, next)
                }
            }
        }
        (None, Some(token)) => {
            let name = settings.node_name.as_deref().unwrap_or(machine);
            if NodeName::parse(name).is_none() {
                return Err(MembershipError::InvalidName(name.to_owned()));
            }
            let servers = settings.servers.iter().map(Uri::to_string).collect();
            let draft = Membership::new(name.to_owned(), servers, String::new());
            store(membership_store, new(&draft, token, name).await?)
        }
        (None, None) => Err(MembershipError::NotJoined),
    }
}

fn store(
    membership_store: &MembershipStore,
    joined: (Membership, Identity),
) -> Result<(Membership, Identity)> {
    let (membership, identity) = &joined;
    block_in_place(|| {
        membership_store.write(membership)?;
        membership_store.write_identity(identity)
    })?;
    Ok(joined)
}

fn with_servers(mut membership: Membership, settings: &JoinSettings) -> Membership {
    if !settings.servers.is_empty() {
        membership.servers = settings.servers.iter().map(Uri::to_string).collect();
    }
    membership
}

fn expired(identity: &Identity, now: Timestamp) -> Option<Error> {
    let ends = Validity::of_pem(&identity.certificate_pem)?.ends;
    (ends < now).then(|| Error::Expired(ends.to_string()))
}

/// Joins at the first server that responds.
async fn new(draft: &Membership, token: &JoinToken, name: &str) -> Result<(Membership, Identity)> {
    if draft.servers.is_empty() {
        return Err(MembershipError::NoServer);
    }
    let mut waiting = Waiting::begin();
    loop {
        let mut last = None;
        for server in &draft.servers {
            let url: Uri = server.parse().context("parse the URL of a server")?;
            match join(&url, token, name).await {
                Ok(Joined { ca_pem, identity }) => {
                    let mut servers = draft.servers.clone();
                    // The server that responded is the first of the list.
                    servers.sort_by_key(|candidate| candidate != server);
                    let joined = Membership::new(name.to_owned(), servers, ca_pem);
                    match version::too_new(&client(&joined, &identity)?).await {
                        Ok(None) => return Ok((joined, identity)),
                        Ok(Some(reason)) => return Err(MembershipError::ProgramTooNew(reason)),
                        Err(error) => last = Some(MembershipError::Version(error)),
                    }
                }
                Err(error) if is_away(&error) => last = Some(error.into()),
                Err(error) => return Err(FailedStep::new("join the cluster", error).into()),
            }
        }
        if let Some(error) = last {
            waiting.wait(&error).await;
        }
    }
}

fn client(membership: &Membership, identity: &Identity) -> Result<Client> {
    let servers = Servers::new(membership.urls()?).ok_or(MembershipError::NoStoredServer)?;
    let identity = watch::Sender::new(identity.clone()).subscribe();
    Ok(renewed_client(&servers, &membership.ca_pem, identity))
}

/// Whether the error is temporary, so that a later attempt may succeed.
fn is_away(error: &Error) -> bool {
    match error {
        Error::Unreachable { .. } => true,
        Error::Api(error) => node_agent::is_away(error),
        _ => false,
    }
}

/// The address ranges that a server has assigned to a registered node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The range of the node's pods.
    pub pods: Cidr,
    /// The ranges of the cluster.
    pub cluster: ClusterRanges,
}

/// Waits for the first serving certificate, with which the server connects to the kubelet API of this node.
pub async fn serving(certificate: &mut watch::Receiver<Option<ServingCertificate>>) {
    let issued = timeout(SILENCE, certificate.wait_for(Option::is_some));
    let is_late = issued.await.is_err();
    if is_late {
        print_line(
            "mainstay: waiting for a serving certificate: pods run, and `kubectl logs` and `kubectl exec` do \
             not reach them yet. `kubectl get certificatesigningrequests` shows the request of the node",
        );
        drop(certificate.wait_for(Option::is_some).await);
    }
}

/// Registers the node, and reads its ranges. Waits for the server.
///
/// # Errors
/// The server refuses the node, or assigns it no range.
pub async fn register(client: &Client, node: &NewNode) -> Result<Registered> {
    let mut waiting = Waiting::begin();
    loop {
        match attempt(client, node).await {
            Err(error) if error.is_temporary() => waiting.wait(&error).await,
            result => return result,
        }
    }
}

/// The result of a node's start in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterEntry {
    /// A server has responded.
    Answered(Registered),
    /// No server responds: the ranges are those of the last start.
    Remembered(Registered),
}

impl ClusterEntry {
    /// The ranges, from a server or from the last start.
    pub fn registered(self) -> Registered {
        let (Self::Answered(registered) | Self::Remembered(registered)) = self;
        registered
    }
}

/// Registers the node. With ranges of the last start in `remembered`, it waits only for a short time.
///
/// # Errors
/// As [`register`].
pub async fn enter(
    client: &Client,
    node: &NewNode,
    remembered: Option<Registered>,
) -> Result<ClusterEntry> {
    let registering = register(client, node);
    let Some(remembered) = remembered else {
        return Ok(ClusterEntry::Answered(registering.await?));
    };
    match timeout(PATIENCE, registering).await {
        Ok(registered) => Ok(ClusterEntry::Answered(registered?)),
        Err(_) => Ok(ClusterEntry::Remembered(remembered)),
    }
}

/// Waits for a server after a start without a server, and compares its ranges with those in `remembered`.
///
/// # Errors
/// As [`register`], or the server assigns the node ranges that differ from those of its pods.
pub async fn confirm(client: &Client, node: &NewNode, remembered: Registered) -> Result<()> {
    let registered = register(client, node).await?;
    if registered != remembered {
        return Err(MembershipError::OtherRanges {
            assigned: Box::new(registered),
            used: Box::new(remembered),
        });
    }
    Ok(())
}

async fn attempt(client: &Client, node: &NewNode) -> Result<Registered> {
    let failed = |step: String| {
        move |source: kube_api_client::Error| match source.code() {
            Some(401) => MembershipError::OtherCluster { step },
            _ => MembershipError::Api { step, source },
        }
    };
    let registered = node.register(client).await;
    let registered = registered.map_err(failed(format!("register the node {}", node.name)))?;
    let services: Api<Service> = Api::namespaced(client.clone(), KUBE_SYSTEM);
    let service = services.get(DNS_SERVICE).await;
    let service = service.map_err(failed("read the ranges of the cluster".to_owned()))?;
    let cluster = ClusterRanges::of(&service).ok_or(MembershipError::OneMachine)?;
    let pods = pod_range(&registered, &cluster)?;
    Ok(Registered { pods, cluster })
}

/// The range of the pods of a registered node.
///
/// # Errors
/// The cluster had no free range when the Node object was created.
pub fn pod_range(node: &Node, cluster: &ClusterRanges) -> Result<Cidr> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref());
    let range = range.ok_or_else(|| MembershipError::NoPodRange {
        node: name.to_owned(),
        cluster: cluster.pods,
    })?;
    let parsed = range.parse();
    Ok(parsed.with_context(|| format!("the node's range for pods, {range}"))?)
}
