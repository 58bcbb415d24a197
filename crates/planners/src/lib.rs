//! The decisions of the controllers: one folder per controller, each a pure and total function from
//! the observed state (and the time) to a plan. No I/O, clock, randomness or logging.

pub mod attach_detach;
pub mod batching;
pub mod certificate_signing;
pub mod clusterrole_aggregation;
pub mod crd_names;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod diagnosis;
pub mod disruption;
pub mod endpoints;
pub mod ephemeral_volumes;
pub mod garbage_collection;
pub mod horizontal_pod_autoscaler;
pub mod job;
pub mod leader_election;
pub mod live_servers;
pub mod load_balancer;
pub mod namespaces;
pub mod node_lifecycle;
pub mod ordinal_services;
pub mod ownership;
pub mod pod_gc;
pub mod pod_set;
pub mod replica_set;
pub mod resource_claims;
pub mod root_ca_publisher;
pub mod service_account_tokens;
pub mod service_accounts;
pub mod stateful_set;
pub mod token_cleaner;
pub mod volume_binding;
pub mod volume_expansion;
pub mod volume_protection;
pub mod volume_snapshot;
