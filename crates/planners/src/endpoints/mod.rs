//! EndpointSlices and Endpoints: which pods are behind a Service, and on which ports.
//!
//! **Goal**: the slices of a Service that has a selector hold exactly its pods that have an
//! address and have not ended, with their conditions; Endpoints say the same in the old form.
//! **Relies on**: writes being refused when the object has changed.
//! **Guarantees**: other people's slices and Endpoints, and Services without a selector, are left
//! alone; slices change only where a pod did.

mod endpoint;
mod mirror;
mod plan;
mod slices;

pub use plan::{EndpointsWrite, Observed, Plan, plan};
