//! The confinement of a container's processes: capabilities, system call filters, keyrings and mounts over
//! `/proc`.

pub(crate) mod capabilities;
pub(crate) mod keyring;
pub(crate) mod proc_guard;
mod project_filter;
pub(crate) mod seccomp;
pub(crate) mod seccomp_profile;
