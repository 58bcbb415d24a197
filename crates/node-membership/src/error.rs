use std::path::PathBuf;

use command_output::failed_step::FailedStep;
use host_kernel::Interrupted;
use pod_network::Cidr;

use crate::joining::Registered;

/// The reason why a machine does not join a cluster, or why its node does not start.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(transparent)]
    Step(#[from] FailedStep),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The machine gets no certificate.
    #[error(transparent)]
    Certificate(#[from] node_identity::Error),
    /// The server does not respond, or refuses a request.
    #[error("{step}")]
    Api {
        step: String,
        source: kube_api_client::Error,
    },
    /// The version of the server cannot be read.
    #[error(transparent)]
    Version(kube_api_client::Error),
    #[error(
        "{step}: the server does not accept the certificate of this node: it is of another cluster. Remove \
         the data directory with `mainstay down --all`, and join with a token"
    )]
    OtherCluster { step: String },

    #[error("--token needs --server, such as --server https://192.0.2.1:6443")]
    NoServer,
    #[error("no server is known")]
    NoStoredServer,
    #[error(
        "this machine has not joined a cluster yet: give --server and --token. `mainstay token create` \
         on the server prints a token"
    )]
    NotJoined,
    #[error(
        "--node-name {requested}: this data directory belongs to the node {stored}; another node needs \
         a --data-dir of its own"
    )]
    OtherName { requested: String, stored: String },
    #[error(
        "{0:?} cannot be the name of a node: a name has lower case letters, digits, '-' and \
         '.', and starts and ends with a letter or digit. Choose one with --node-name"
    )]
    InvalidName(String),
    /// The program is newer than its server.
    #[error("join the cluster: {0}")]
    ProgramTooNew(String),

    #[error(
        "the cluster is of one machine, served by `mainstay up`: start `mainstay server` on its data \
         directory"
    )]
    OneMachine,
    #[error(
        "the node {node} has no range for pods: all ranges of {cluster} were given to other nodes. Delete \
         the Node objects of machines that are gone, and then this one: `kubectl delete node {node}`"
    )]
    NoPodRange { node: String, cluster: Cidr },
    #[error(
        "the server gives this node the pod range {} of {} and Services {}, and it has started without \
         the server with {} of {} and {}: start it again",
        .assigned.pods, .assigned.cluster.pods, .assigned.cluster.services,
        .used.pods, .used.cluster.pods, .used.cluster.services
    )]
    OtherRanges {
        assigned: Box<Registered>,
        /// The ranges of the last start.
        used: Box<Registered>,
    },
    #[error(
        "the server gives this node the pod range {assigned}, and pods with addresses of {used} run \
         here: `mainstay down --data-dir {}` ends them",
        .data.display()
    )]
    PodsOfOtherRange {
        assigned: Cidr,
        used: Cidr,
        data: PathBuf,
    },
    #[error(
        "the node {node} runs on another machine (machine id {machine_id}), which renews its lease: this data \
         directory is a copy. Remove it with `mainstay down --all`, and join with a token under \
         another name"
    )]
    Copied { node: String, machine_id: String },

    #[error(
        "{} is damaged: remove it, and join again with a token",
        .directory.display()
    )]
    Damaged {
        directory: PathBuf,
        /// `None` if the client certificate has no key.
        source: Option<serde_json::Error>,
    },
    #[error(
        "{} was written by a newer version of mainstay; start that version",
        .0.display()
    )]
    Newer(PathBuf),
    #[error(
        "a node agent already runs on {}{}: `mainstay down --data-dir {}` stops it; another \
         node needs a --data-dir of its own",
        .data.display(),
        .process.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        .data.display()
    )]
    InUse {
        data: PathBuf,
        /// The agent's process; `None` if it has not recorded its number yet.
        process: Option<i32>,
    },
}

pub(crate) type Result<T, E = MembershipError> = std::result::Result<T, E>;

impl MembershipError {
    /// Whether the error is temporary, so that a later attempt may succeed.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Api { source, .. } => node_agent::is_away(source),
            _ => false,
        }
    }
}
