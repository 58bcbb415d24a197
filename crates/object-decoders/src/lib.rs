//! Decoders of API objects that several crates use.
//!
//! The compiler generates a generic function in the crate that uses it with a type, unless a dependency contains it
//! already. Because this crate contains these decoders, the program contains each of them once, and not once per
//! crate that uses it.

use std::any::Any;

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::ResourceClaim;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, StorageClass, VolumeAttachment};
use serde::de::DeserializeOwned;
use serde_json::Result;

/// Decodes an object, or a part of an object, from JSON.
///
/// # Errors
/// The text is not JSON, or not such an object.
pub fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text)
}

/// A decoder of one kind.
pub type Decoder = fn(&[u8]) -> Result<Box<dyn Any>>;

/// The kinds whose decoders are compiled in this crate.
pub static DECODERS: [Decoder; 19] = [
    decoder::<CSIDriver>,
    decoder::<CSINode>,
    decoder::<CertificateSigningRequest>,
    decoder::<ConfigMap>,
    decoder::<EndpointSlice>,
    decoder::<Lease>,
    decoder::<Namespace>,
    decoder::<Node>,
    decoder::<PersistentVolume>,
    decoder::<PersistentVolumeClaim>,
    decoder::<Pod>,
    decoder::<PodDisruptionBudget>,
    decoder::<ResourceClaim>,
    decoder::<Secret>,
    decoder::<Service>,
    decoder::<StorageClass>,
    decoder::<SubjectAccessReview>,
    decoder::<TokenRequest>,
    decoder::<VolumeAttachment>,
];

fn decoder<K: DeserializeOwned + 'static>(text: &[u8]) -> Result<Box<dyn Any>> {
    Ok(Box::new(from_slice::<K>(text)?))
}
