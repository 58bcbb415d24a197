//! Container images: pulled from registries, imported from archives, and unpacked once into layers that
//! containers share.
//!
//! On disk, there are `images.json` (names, images and the configuration of their containers) and `layers/`
//! (unpacked layers, by the digest of their uncompressed archive). Several processes may use one store:
//! changes need a file lock, and every read is from disk.

mod access;
mod builtin;
mod collection;
mod compression;
mod credentials;
pub mod decoders;
mod digest;
mod disk_space;
mod import;
mod index;
mod layer_sync;
mod layers;
mod manifest;
mod pull;
mod reference;
mod registries;
mod scratch;
mod stall_detector;
mod store;
mod unpack;

pub use access::{PullSecret, SecretName};
pub use builtin::BuiltinLayer;
pub use collection::{Garbage, ImagesInUse};
pub use credentials::Credentials;
pub use disk_space::{KeepFree, MissingSpace, OutOfSpace};
pub use import::ImportError;
pub use index::Image;
pub use manifest::ImageConfig;
pub use pull::{PullError, PullOptions};
pub use reference::{InvalidReference, normalize};
pub use registries::{RegistriesConfig, RegistriesError};
pub use stall_detector::{MinimumSpeed, PullProgress};
pub use store::{ImageStore, StoreError};
pub use unpack::UnpackError;
