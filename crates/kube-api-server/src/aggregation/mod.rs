//! Aggregation: requests for group versions that an extension API server serves are proxied to it.
//!
//! An APIService with `spec.service` names the group version and the Service. The availability of each such server is
//! checked periodically and at each change of its Service; the result is the condition `Available`, and the documents of
//! the server become part of discovery. The order of reading: `remote_service`, `state`, `proxy`, `availability`.

pub(crate) mod authentication_config;
pub(crate) mod availability;
mod fetch;
mod identity;
pub(crate) mod proxy;
mod remote_service;
pub(crate) mod state;
mod verdict;
