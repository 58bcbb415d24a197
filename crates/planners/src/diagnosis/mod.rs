//! The reason why something waits, in words.
//!
//! **Goal**: from stored objects, name the cause why a pod is not Ready, and the steps that would
//! change it. **Relies on**: nothing; statuses may be missing, old or contradictory.
//! **Guarantees**: total; [`pod()`] returns the same text as long as the cause is the same: no
//! ages, counters or back-off times, so that a condition may hold it.
//!
//! [`explain()`] goes further: it follows an object's dependencies to the root causes, with all
//! objects of a namespace and of the cluster (`observed`). Each file covers one family of kinds;
//! [`Overview`] explains all objects; `render` writes the answer as text and JSON.
//!
//! `pod` checks in the order in which things can go wrong; `ending` covers terminating and ended
//! pods, `scheduling` pods without a node, `container` pods with one; `exit` describes the end of a
//! process.

mod api;
mod chain_builder;
mod claims;
mod components;
mod container;
mod deletion;
mod ending;
mod exit;
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
mod pod;
mod pods;
mod reason;
mod refusal;
mod remedies;
mod remedy;
mod render;
mod scaling;
mod scheduling;
mod services;
mod set_summary;
mod sets;
mod snapshots;
mod text;
mod volumes;
mod workloads;

pub use explain::explain;
pub use explanation::{CauseChain, EventSeries, Explanation, Finding, Log, Object, WaitState};
pub use kinds::TargetKind;
pub use metadata::explain_metadata;
pub use observed::{ObservedCluster, ObservedNamespace, Webhook};
pub use overview::Overview;
pub use pod::{Diagnosis, PodContext, pod, pod_in};
pub use reason::Reason;
pub use remedy::Remedy;
pub use sets::claim_ordinal;
