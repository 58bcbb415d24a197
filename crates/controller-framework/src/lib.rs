//! The common parts of everything that reconciles: the frame of a controller ([`Controller`]), watch
//! caches ([`Cache`], [`SharedCaches`]), a keyed work queue ([`Queue`]) with its [`metrics`], an event recorder
//! ([`Recorder`]), and the thread of a large decision ([`decide`]).
//!
//! This crate does not depend on the reconciled kinds, except that many controllers watch pods
//! (`pods.rs`), and some watch Services with their endpoints (`services.rs`). Everything is bounded
//! (`limits.rs`), ends with a `CancellationToken`, and holds no lock across an await.

mod cache;
mod changes;
mod controller;
mod decision;
mod key;
pub mod limits;
pub mod metrics;
mod pods;
#[cfg(test)]
mod portions;
mod queue;
mod recorder;
mod services;
mod shared;
mod similarity;

pub use cache::{Cache, Index, PodsByLabel, label_term};
pub use changes::{Changes, ObjectChange};
pub use controller::{Controller, run_controller};
pub use decision::decide;
pub use key::{Identity, IdentityTexts, object_key};
pub use kube_api_client::{Object, WatchConfig};
pub use queue::{Lease, Queue, ReconcileResult, Work, run_workers};
pub use recorder::{EventType, Recorder, Source, reference};
pub use services::{ServiceChanges, ServiceState, service_of};
pub use shared::SharedCaches;
