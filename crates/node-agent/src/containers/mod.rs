//! Containers: their specification for the runtime, their lifecycle hooks and their logs.

mod devices;
pub(crate) mod instance;
pub(crate) mod lifecycle_hooks;
pub(crate) mod logs;
pub(crate) mod runtime_spec;
pub(crate) mod sandbox_error;
pub(crate) mod security_context;
pub(crate) mod service_variables;
mod spec_error;
