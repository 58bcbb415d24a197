//! The controllers against the real API server over a store in memory. Only the node is played:
//! pods get Running, Ready and an address, and go when they are deleted.

#![expect(clippy::unwrap_used, reason = "a test")]

#[path = "cluster/access.rs"]
mod access;
#[path = "cluster/autoscaling.rs"]
mod autoscaling;
#[path = "cluster/certificate_signing.rs"]
mod certificate_signing;
#[path = "cluster/collection.rs"]
mod collection;
#[path = "cluster/contract.rs"]
mod contract;
#[path = "cluster/daemon_sets.rs"]
mod daemon_sets;
#[path = "cluster/definitions.rs"]
mod definitions;
#[path = "cluster/deployments.rs"]
mod deployments;
#[path = "cluster/disruption.rs"]
mod disruption;
#[path = "cluster/endpoints.rs"]
mod endpoints;
#[path = "cluster/extreme_numbers.rs"]
mod extreme_numbers;
#[path = "cluster/jobs.rs"]
mod jobs;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/services.rs"]
mod services;
#[path = "cluster/shared.rs"]
mod shared;
#[path = "cluster/stateful_sets.rs"]
mod stateful_sets;
#[path = "cluster/support.rs"]
mod support;
#[path = "cluster/trouble.rs"]
mod trouble;
