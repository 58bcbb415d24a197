//! The reason why something waits, in words.
//!
//! **Goal**: from what is stored, name the cause of a pod's not being Ready, and what would
//! change it.
//! **Relies on**: nothing; statuses may be missing, old or contradictory.
//! **Guarantees**: total; [`pod()`] gives the same words as long as the cause is the same: no
//! ages, counters or back-off times, so that a condition may hold them.
//!
//! [`explain()`] goes further: from an object along who waits for whom to the root causes, with all
//! that is known of a namespace and of the cluster (`evidence`). Each file is about one family of
//! kinds and follows the `trail`; [`Overview`] asks about all objects; `render` puts the answer into
//! lines and JSON.
//!
//! `pod` asks in the order in which things can go wrong; `ending` knows of pods that end or have
//! ended, `scheduling` of those without a node, `container` of those with one, `exit` puts the
//! end of a process into words.

mod api;
mod chain;
mod claims;
mod components;
mod container;
mod ending;
mod evidence;
mod exit;
mod explain;
mod held;
mod jobs;
mod kills;
mod kinds;
mod namespaces;
mod nodes;
mod notes;
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
mod trail;
mod volumes;
mod words;
mod workloads;

pub use chain::{Chain, Explanation, Link, Log, Object, Seen, State};
pub use evidence::{Cluster, Evidence, Webhook};
pub use explain::explain;
pub use kinds::TargetKind;
pub use overview::Overview;
pub use pod::{Diagnosis, Surroundings, pod, pod_in};
pub use reason::Reason;
pub use remedy::Remedy;
pub use sets::claim_ordinal;
