//! Images of Ceph RBD: the program `rbd` of ceph-common, and the kernel's interface for mapped images.
//!
//! `controllers::rbd_provisioner` creates, resizes and removes images by [`RbdProgram`]; the node agent maps them by
//! [`Bus`]. The decisions are in `controller_planners::rbd_provisioner`, the names of the API in
//! `resource_kinds::storage::rbd`.

mod bus;
mod image;
mod image_lock;
mod mapping;
mod program;
mod source;

pub use bus::{Bus, NoBus, UnmapError, device_path};
pub use image::{Device, Image};
pub use image_lock::exclusively;
pub use mapping::{ImageAccess, MapError, MonitorsError, monitor_addresses};
pub use program::{RbdLogin, RbdProgram, RbdProgramError};
pub use source::{InvalidSource, RbdSource, SecretName, key_in_keyring};
