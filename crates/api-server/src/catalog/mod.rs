//! The API resources that are served, and the documents about them: discovery and OpenAPI.

pub(crate) mod discovery;
pub(crate) mod openapi;
pub(crate) mod registry;
pub(crate) mod snapshot;
pub(crate) mod virtual_resources;
