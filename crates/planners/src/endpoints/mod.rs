//! EndpointSlices and Endpoints: which pods are behind a Service, and on which ports.
//!
//! **Goal**: the slices of a Service that has a selector hold exactly its pods that have an
//! address and have not ended, with their conditions; Endpoints say the same in the old form.
//! **Relies on**: writes being refused when the object has changed.
//! **Guarantees**: other people's slices and Endpoints are left alone; Endpoints of a Service without
//! a selector are somebody else's, and mirrored to slices; slices change only where a pod (or those
//! Endpoints) did.

mod by_hand;
mod endpoint;
mod mirror;
mod plan;
mod slices;

pub use plan::{EndpointsWrite, Observed, Plan, plan};
