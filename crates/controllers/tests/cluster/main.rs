//! The controllers against the real API server over a store in memory. Only the node is simulated: pods become Running
//! and Ready, get an address, and are removed when they are deleted.

#![expect(clippy::unwrap_used, reason = "a test")]

mod access;
mod attachments;
mod autoscaling;
mod certificate_signing;
mod collection;
mod contract;
mod daemon_sets;
mod definitions;
mod deployments;
mod disruption;
mod endpoints;
mod extension_servers;
mod extreme_numbers;
mod jobs;
mod nodes;
mod services;
mod shared;
mod stateful_sets;
mod support;
mod trouble;
