//! EndpointSlices and Endpoints: which pods are behind a Service, and on which ports.
//!
//! **Goal**: the slices of a Service with a selector hold exactly its pods that have an address and
//! have not ended, with their conditions; Endpoints hold the same in the old API. **Relies on**:
//! the API server, which refuses a write to a changed object. **Guarantees**: slices and Endpoints
//! of others are not changed; Endpoints of a Service without a selector belong to the user and are
//! mirrored to slices; a slice changes only if one of its pods (or the mirrored Endpoints) did.
//!
//! [`EndpointsPlan::urgency`] says how soon the plan must be written ([`crate::batching`]).

mod by_hand;
mod endpoint;
mod mirror;
mod plan;
mod slices;
mod urgency;

pub use plan::{EndpointsPlan, EndpointsWrite, Observed, plan, plan_slices};
