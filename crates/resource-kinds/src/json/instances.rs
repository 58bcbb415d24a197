//! Instances of serde's generic code for the types that most crates convert.
//!
//! A generic function is compiled again in each crate that uses it with a type, unless a crate below has used it with the
//! same type: rustc shares instances with the crates above, at the optimisation levels 0, 1, "s" and "z". So conversions
//! that are used here are compiled once for all of them, and are once in the program.

use k8s_openapi::api::{apps, coordination, core, discovery};
use serde::Serialize;
use serde_json::{Result, Value};

/// Reads an object as its type.
#[cfg(debug_assertions)]
type Decode = fn(Value) -> Result<()>;

#[cfg(debug_assertions)]
fn decode<K: serde::de::DeserializeOwned>(object: Value) -> Result<()> {
    serde_json::from_value::<K>(object).map(drop)
}

/// The types that tests write as JSON. The product has a decoder of its own.
#[cfg(debug_assertions)]
pub static DECODED_BY_TESTS: &[Decode] = &[
    decode::<apps::v1::StatefulSet>,
    decode::<coordination::v1::Lease>,
    decode::<core::v1::ConfigMap>,
    decode::<core::v1::Node>,
    decode::<core::v1::PersistentVolume>,
    decode::<core::v1::PersistentVolumeClaim>,
    decode::<core::v1::Pod>,
    decode::<core::v1::Service>,
    decode::<discovery::v1::EndpointSlice>,
];

/// Writes an object as a tree.
type Encode<K> = fn(&K) -> Result<Value>;

fn encode<K: Serialize>(object: &K) -> Result<Value> {
    serde_json::to_value(object)
}

/// The types that planners and the node agent compare as JSON.
pub static ENCODED_PODS: Encode<core::v1::Pod> = encode;
