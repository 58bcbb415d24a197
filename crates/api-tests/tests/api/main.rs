//! The API from outside: real kinds, a real store in memory, the whole pipeline.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod access;
mod admission_coverage;
mod admission_of_parts;
mod aggregation;
mod annotations;
mod audit;
mod authorization;
mod bad_input;
mod binary;
mod bootstrap_tokens;
mod claim_templates;
mod client;
mod component_health;
mod conversion_webhooks;
mod corpus;
mod custom_metadata;
mod custom_resources;
mod deletion;
mod devices;
mod dynamic_admission;
mod encryption;
mod escalation;
mod extension_server;
mod extreme_numbers;
mod flow_control;
mod following;
mod full_store;
mod group_versions;
mod guard;
mod harness;
mod health;
mod hook;
mod hooks_of_pods;
mod hostile;
mod impersonation;
mod levels;
mod listing;
mod load;
mod metadata_patches;
mod mutating_policies;
mod network;
mod node_fields;
mod node_table;
mod node_tunnel;
mod nodes;
mod pages;
mod pod_parts;
mod pod_ranges;
mod policy_expressions;
mod published;
mod quotas;
mod reach;
mod remote_nodes;
mod requests;
mod resource_metrics;
mod server_side_apply;
mod several_servers;
mod stateful_sets;
mod stolen_node;
mod store_shares;
mod subresources;
mod unread;
mod unreadable;
mod warnings;
mod watch_bytes;
mod watching;
mod webhook_rules;
mod writing;
mod written_values;
