//! The reason why something waits, in words.
//!
//! **Goal**: from stored objects, name the cause why a pod is not Ready, and the steps that would
//! change it. **Relies on**: nothing; statuses may be missing, old or contradictory.
//! **Guarantees**: total; [`pod()`] returns the same text as long as the cause is the same: no
//! ages, counters or back-off times, so that a condition may hold it.
//!
//! [`explain()`] goes further: it follows an object's dependencies to the root causes, with all
//! objects of a namespace and of the cluster (`evidence`). Each file covers one family of kinds;
//! [`Overview`] explains all objects; `render` writes the answer as text and JSON.
//!
//! `pod` checks in the order in which things can go wrong; `ending` covers terminating and ended
//! pods, `scheduling` pods without a node, `container` pods with one; `exit` describes the end of a
//! process.

mod api;
mod explanation;
mod claims;
mod components;
mod container;
mod ending;
mod observed;
mod exit;
mod explain;
mod deletion;
mod jobs;
mod kills;
mod kinds;
mod namespaces;
mod nodes;
mod set_summary;
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
mod sets;
mod snapshots;
mod chain_builder;
mod volumes;
mod text;
mod workloads;

pub use explanation::{Chain, Explanation, Link, Log, Object, Seen, State};
pub use observed::{Cluster, Evidence, Webhook};
pub use explain::explain;
pub use kinds::TargetKind;
pub use overview::Overview;
pub use pod::{Diagnosis, Surroundings, pod, pod_in};
pub use reason::Reason;
pub use remedy::Remedy;
pub use sets::claim_ordinal;
