//! Handlers of requests: the verbs, subresources and documents of the API.

pub(crate) mod allow_header;
pub(crate) mod component_health;
pub(crate) mod destination;
pub(crate) mod forwarding;
pub(crate) mod freshness;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod nodes;
pub(crate) mod output;
pub(crate) mod remote_nodes;
pub(crate) mod resource_metrics;
pub(crate) mod reviews;
pub(crate) mod selection;
pub(crate) mod subresources;
pub(crate) mod verbs;
pub(crate) mod writer;
