//! EndpointSlices and Endpoints: the pods behind a Service, and their ports.
//!
//! **Goal**: the slices of a Service with a selector contain exactly its pods that have an address and have not ended,
//! with their conditions; the Endpoints contain these pods in the old API. **Relies on**: the API server, which refuses
//! a write to a changed object. **Guarantees**: slices and Endpoints of other managers are not changed; Endpoints of a
//! Service without a selector belong to the user and are mirrored to slices; a slice changes only if one of its pods
//! (or the mirrored Endpoints) changes.
//!
//! [`EndpointsPlan::urgency`] gives the time at which the plan must be written ([`crate::batching`]).

mod by_hand;
mod endpoint;
mod mirror;
mod plan;
mod slices;
mod urgency;

pub use plan::{DeletedObject, EndpointsPlan, EndpointsWrite, Observed, plan, plan_slices};
