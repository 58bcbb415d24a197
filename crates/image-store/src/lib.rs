//! Images on a node: pulled from registries, imported from archives, unpacked once, kept by
//! the digests of their contents.
//!
//! ```text
//! <dir>/
//!     blobs/sha256/<digest>     manifests and configurations
//!     layers/<diff id>/         unpacked layers, ready to be overlayfs' lower directories
//!     images/<name>.json        which image a reference stands for
//!     tmp/                      everything unfinished
//!     lock                      shared by who adds, exclusive for who removes
//! ```
//!
//! Nothing appears under its final name before it is complete, verified and on disk. What a
//! layer's archive contains is never trusted: it is unpacked by descriptor, each name resolved
//! by the kernel below the layer's own directory.

mod compression;
mod credentials;
mod digest;
mod disk;
mod error;
mod image;
mod import;
mod limits;
mod manifest;
mod pull;
mod reference;
mod registries;
mod registry;
mod store;
mod unpack;

pub use credentials::{Credentials, credentials_for};
pub use error::{ImportError, PullError, StoreError};
pub use image::{Image, ImageConfig};
pub use limits::UnpackLimits;
pub use pull::PullOptions;
pub use reference::{InvalidReference, Reference};
pub use registries::{Endpoint, InvalidRegistries, RegistriesConfig};
pub use store::{BuiltinFile, BuiltinLayer, Freed, ImageStore};
