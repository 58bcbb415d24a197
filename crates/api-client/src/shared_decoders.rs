//! Decoders of the kinds that several crates read.
//!
//! A generic function is compiled by the crate that uses it with a type, unless a crate below has it already. With
//! this list, the program has each of these decoders once, and not once for each reader.

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

use crate::client::decode;
use crate::error::Result;

/// A decoder of one kind.
pub type Decoder = fn(&[u8]) -> Result<Box<dyn Any>>;

/// Decoders of kinds that several crates read, compiled once for all of them.
pub static SHARED_DECODERS: [Decoder; 19] = [
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
    Ok(Box::new(decode::<K>(text)?))
}
