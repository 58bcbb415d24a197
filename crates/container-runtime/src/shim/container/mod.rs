//! Containers of a sandbox: the workers that create, start and remove them, their roots, their processes
//! and their logs.

pub(crate) mod context;
mod devices;
mod init;
mod inside;
mod launch;
pub(crate) mod log;
pub(crate) mod mapped_mounts;
mod overlay;
pub(crate) mod prepare;
pub(crate) mod process;
mod root;
mod root_plan;
mod rootfs;
pub(crate) mod siblings;
pub(crate) mod user_namespace;
pub(crate) mod users;
pub(crate) mod worker;
mod working_directory;
