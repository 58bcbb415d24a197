//! The reasons why objects wait, in words.
//!
//! [`explain()`] follows an object's dependencies to the root causes, with all objects of a namespace and of the
//! cluster (`observed`). Each file covers one family of kinds; [`Overview`] explains all objects; `render` writes the
//! explanations as text and JSON. `pod_lifecycle::diagnosis` gives the cause of a single pod. All functions are total.

mod api;
mod chain_builder;
mod claim_edits;
mod claims;
mod components;
pub mod connection;
mod deletion;
mod explain;
mod explanation;
mod jobs;
mod kills;
mod kinds;
mod metadata;
mod namespaces;
mod nodes;
mod observed;
mod overview;
mod pods;
mod policy_remedies;
mod refusal;
mod remedies;
mod render;
mod scaling;
mod services;
mod set_summary;
mod sets;
mod snapshots;
mod volumes;
mod workloads;

pub use explain::explain;
pub use explanation::{CauseChain, EventSeries, Explanation, Finding, Log, Object, WaitState};
pub use kinds::TargetKind;
pub use metadata::explain_metadata;
pub use observed::{ObservedCluster, ObservedNamespace, Webhook};
pub use overview::Overview;
pub use sets::claim_ordinal;
