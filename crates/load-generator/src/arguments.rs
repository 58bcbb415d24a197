//! The arguments of the command line.

use std::path::PathBuf;

use clap::Parser;

use crate::objects::BenchSubject;
use crate::plan::Measure;
use crate::sets::{Policy, Sets};

/// Measure a Kubernetes API server: requests per second, latency, watches, memory, processor time
#[derive(Parser, Debug)]
#[command(name = "mainstay-bench", version, about, after_help = AFTER_HELP)]
pub struct Arguments {
    /// Kubeconfig of server and user
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Number of objects, and of requests of each kind
    #[arg(long, value_name = "N", default_value_t = 5000,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub objects: u32,
    /// Create pods without a common template
    #[arg(long)]
    pub distinct: bool,
    /// Create small ConfigMaps in place of pods
    #[arg(long, conflicts_with_all = ["distinct", "sets", "nodes"])]
    pub config_maps: bool,
    /// Create custom resources in place of pods, of a definition that exists during the measurement
    #[arg(long, conflicts_with_all = ["config_maps", "distinct", "sets", "nodes"])]
    pub custom_resources: bool,
    /// With --custom-resources, the definition has validation rules
    #[arg(long, requires = "custom_resources")]
    pub rules: bool,
    /// Numbers of concurrent clients, each with its own connection; one round for each number
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,16,64",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub clients: Vec<u32>,
    /// Numbers of watches; one round for each number
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,100,1000",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub watchers: Vec<u32>,
    /// Watches that share a connection with HTTP/2, as those of client-go do; with 1, each watch has its own connection
    /// with HTTP/1.1
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub watches_per_connection: u32,
    /// Measurements [default: all but get-under-load; memory only with --server-pid]
    #[arg(long, value_name = "WHAT,…", value_delimiter = ',', value_enum)]
    pub only: Vec<Measure>,
    /// Measure StatefulSets on hollow nodes instead of requests: numbers of sets, and of pods each
    #[arg(long, value_name = "SETSxPODS,…", value_delimiter = ',',
          conflicts_with_all = ["only", "objects", "distinct", "clients", "watchers"])]
    pub sets: Vec<Sets>,
    /// Pod management policies of the sets; one round for each
    #[arg(
        long,
        value_name = "POLICY,…",
        value_delimiter = ',',
        value_enum,
        default_value = "OrderedReady",
        requires = "sets"
    )]
    pub policy: Vec<Policy>,
    /// With --sets, leave out the update: in large sets it takes long, pod after pod
    #[arg(long, requires = "sets")]
    pub no_update: bool,
    /// Number of hollow nodes: with --sets, those of the pods [default: 10]; alone, measure the cost of their
    /// heartbeats instead of requests
    #[arg(long, value_name = "N", conflicts_with_all = ["only", "objects", "distinct", "clients", "watchers"],
          value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub nodes: Option<u32>,
    /// Time for which heartbeats are measured
    #[arg(long, value_name = "N", default_value_t = 60, requires = "nodes", conflicts_with = "sets",
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Process ids of the server on this machine, for its memory and its processor time per request
    /// or, with --sets, per pod
    #[arg(long, value_name = "PID,…", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..))]
    pub server_pid: Vec<u32>,
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORM", default_value = "text")]
    pub output: OutputFormat,
}

impl Arguments {
    /// The kind of the created objects.
    pub fn subject(&self) -> BenchSubject {
        match (self.config_maps, self.custom_resources) {
            (true, _) => BenchSubject::ConfigMaps,
            (false, true) => BenchSubject::CustomResources { rules: self.rules },
            (false, false) => BenchSubject::Pods {
                distinct: self.distinct,
            },
        }
    }
}

const AFTER_HELP: &str = "\
The pods are created in a new namespace with the label
app.kubernetes.io/managed-by=mainstay-bench, which is deleted at the end, also after Ctrl-C.
They name a scheduler that does not exist, so no node runs them. A list request lists all pods,
at once (in JSON or in protobuf) or in pages of 500. With --config-maps, the same is measured with
ConfigMaps of two short texts, without memory; with --custom-resources, with objects of 1.3 KB of a
definition of their own, with --rules with three validation rules, without memory and protobuf.

With --sets, nodes without containers are created: pods that are bound to them are Running and
Ready at once. For each SETSxPODS the sets are created, updated, scaled to 0 and deleted, each with
a template of its own and a headless Service. The user must be allowed to create nodes. Other pods do not get to these nodes,
because they have a taint. Each node renews its Lease every 10 seconds and writes its status every
5 minutes; up to 100 connections serve all of them.

With --nodes alone, each node also watches its pods, of which there are none.

The processor time of a request is that of all processes of --server-pid from the first request of
the measurement until half a second after the last one, divided by the number of requests.

The measurement get-under-load is made only if --only names it: gets, while 64 more clients patch
pods, 10 list all pods, and one writes 1 MB of YAML each second. Its processor time is that of all
these requests.

Memory that one measurement has freed is used by the next one: for exact values, restart the
server and measure memory or watches alone.

Exit status: 0 with results; 1 if a request failed or was refused; 2 if the arguments are wrong.

Examples:
  mainstay-bench --kubeconfig ~/.kube/config
  mainstay-bench --kubeconfig k.yaml --only get,list --clients 16 -o json
  mainstay-bench --kubeconfig k.yaml --config-maps --only create,patch,delete --server-pid 4711
  mainstay-bench --kubeconfig k.yaml --only memory --objects 10000 --server-pid 4711
  mainstay-bench --kubeconfig k.yaml --only get-under-load --clients 1
  mainstay-bench --kubeconfig k.yaml --sets 100x3,1x200 --server-pid 4711
  mainstay-bench --kubeconfig k.yaml --sets 100x1000 --policy Parallel --nodes 1000 --no-update
  mainstay-bench --kubeconfig k.yaml --nodes 1000 --server-pid 4711";

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    Text,
    Json,
}
