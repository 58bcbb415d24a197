//! Reads of the store, and stored objects as keys and bytes.

mod decoded;
mod encode;
mod leases;
mod lookup;
mod managed_fields;
mod parts;
mod put;
mod scan;
mod unreadable;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use json_text::{PartialTree, partial_tree, tree};
use json_tree::{Value, json};
use mvcc_store::{KeyValue, Omittable, Range, RangeResult, Revision, Store, StoreError};
use object_model::{Cause, Status, StatusDetails, StatusReason};
use resource_kinds::FieldRead;
use resource_kinds::annotations::MALFORMED_METADATA;
use resource_kinds::quota::limited::LimitedResource;

use crate::catalog::Catalog;
use crate::catalog::registry::{Resource, end_of};
use crate::http::configured_servers::ServerPools;
use crate::objects::converted_objects::ConvertedObjects;
use crate::objects::field_text_cache::FieldTextCache;
use crate::objects::metadata;
use crate::objects::namespace_share::{self, PendingBytes};
use crate::objects::policy_metrics::PolicyMetrics;
use crate::objects::watch_event_cache::WatchEventCache;
use crate::objects::webhook_metrics::WebhookMetrics;

use decoded::DecodedObjects;
use encode::encode_as_at;
pub(crate) use encode::{
    at_revision, encode, encode_as, encode_at, encode_with, encode_within, is_of_type,
    with_revision, without_revision, without_type,
};
pub(crate) use leases::Leases;
pub(crate) use lookup::{ReadObjects, SyncReads, allocation_key, reading, reading_once};
pub(crate) use managed_fields::{ManagedFields, Managers};
pub(crate) use parts::Parts;
pub(crate) use put::PutResult;
pub(crate) use scan::{metadata as encoded_metadata, metadata_without_managed_fields, undecodable};
pub(crate) use unreadable::{IGNORE_READ_ERROR, check_form, unreadable};

/// The store, with the kinds that are served.
pub(crate) struct Objects {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) leases: Leases,
    pub(crate) catalog: Catalog,
    decoded: DecodedObjects,
    pub(crate) watch_event_cache: WatchEventCache,
    pub(crate) pending_bytes: PendingBytes,
    /// Resources and scopes that a namespace may use only if a quota covers them.
    pub(crate) limited_resources: Vec<LimitedResource>,
    pub(crate) field_text_cache: FieldTextCache,
    pub(crate) converted_objects: ConvertedObjects,
    /// The connections to webhooks.
    pub(crate) server_pools: ServerPools,
    pub(crate) webhook_metrics: WebhookMetrics,
    pub(crate) policy_metrics: PolicyMetrics,
}

impl Objects {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        catalog: Catalog,
        limited_resources: Vec<LimitedResource>,
    ) -> Self {
        store.count_by_owner(namespace_share::namespace_of);
        Self {
            store,
            leases: Leases::default(),
            catalog,
            decoded: DecodedObjects::default(),
            watch_event_cache: WatchEventCache::default(),
            field_text_cache: FieldTextCache::default(),
            pending_bytes: PendingBytes::default(),
            converted_objects: ConvertedObjects::default(),
            server_pools: ServerPools::default(),
            webhook_metrics: WebhookMetrics::default(),
            policy_metrics: PolicyMetrics::default(),
            limited_resources,
        }
    }

    /// Reads one object in its stored form; `None` if it does not exist.
    pub(crate) async fn read(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<KeyValue>, Status> {
        let range = Range {
            start: resource.key(namespace, name),
            ..Range::default()
        };
        let listed = self.store.range(range).await.map_err(|e| refusal(&e))?;
        Ok(listed.items.into_iter().next())
    }

    /// Reads one object in its stored form.
    ///
    /// *Errors.* 404 if it does not exist.
    pub(crate) async fn must_read(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<KeyValue, Status> {
        let stored = self.read(resource, namespace, name).await?;
        stored.ok_or_else(|| resource.not_found(name))
    }

    /// The number of stored objects of a resource.
    pub(crate) async fn count(&self, resource: &Resource) -> Result<usize, Status> {
        let start = resource.prefix("");
        let range = Range {
            end: Some(end_of(&start)),
            start,
            limit: Some(0),
            ..Range::default()
        };
        self.read_range(range).await.map(|result| result.count)
    }

    /// The shared decoded form of a stored object; decoded once per revision.
    ///
    /// *Errors.* As [`decode`].
    pub(crate) fn shared(
        &self,
        resource: &Resource,
        stored: &KeyValue,
    ) -> Result<Arc<Value>, Status> {
        // The form of such objects depends on the requested version, or on the present definition, so they are not
        // cached.
        if !resource.is_shown_as_stored() {
            return self.decode_unconverted(resource, stored).map(Arc::new);
        }
        self.decoded.get(stored, || decode(resource, stored))
    }

    /// The resource in the version in which an object is stored.
    pub(crate) fn stored_as(
        &self,
        resource: &Resource,
        stored: &KeyValue,
    ) -> Option<Arc<Resource>> {
        if !resource.is_custom() {
            return None;
        }
        let api_version = json_text::find_string(&stored.value, &["apiVersion"]);
        let api_version = api_version.ok().flatten()?;
        let served = self.catalog.snapshot();
        served.registry.in_version(resource, &api_version).cloned()
    }

    /// Decodes a stored object, for code that reads it inside of the server. The webhook of its kind is not called: the
    /// object has the version in which it is stored.
    ///
    /// *Errors.* As [`decode`].
    pub(crate) fn decode_unconverted(
        &self,
        resource: &Resource,
        stored: &KeyValue,
    ) -> Result<Value, Status> {
        if resource.webhook().is_none() {
            return decode(resource, stored);
        }
        let stored_as = self.stored_as(resource, stored);
        let stored_as = stored_as.as_deref().unwrap_or(resource);
        let object = parse(&stored.value).map(|object| with_defaults(stored_as, object));
        object.map_err(|why| unreadable(resource, stored, &why))
    }

    /// Reads a range of keys in their stored form.
    pub(crate) async fn read_range(&self, range: Range) -> Result<RangeResult, Status> {
        self.store.range(range).await.map_err(|e| refusal(&e))
    }
}

/// Decodes a stored object into the form of the given resource. A custom resource gets the present
/// defaults of its definition. An object whose kind has a conversion webhook must be converted before.
pub(crate) fn decode(resource: &Resource, stored: &KeyValue) -> Result<Value, Status> {
    let object = parse(&stored.value).and_then(|object| present(resource, object));
    object.map_err(|why| unreadable(resource, stored, &why))
}

/// A stored object in the form of the given resource.
fn present(resource: &Resource, mut object: Value) -> Result<Value, Status> {
    let info = resource.info();
    let is_own =
        |object: &Value| object["kind"] == info.kind && object["apiVersion"] == info.api_version();
    if resource.webhook().is_some() {
        if is_own(&object) {
            return Ok(object);
        }
        return Err(Status::internal(
            "the object is not converted to the version",
        ));
    }
    if resource.shared && !is_own(&object) {
        object = resource
            .kind
            .decode(object)
            .map_err(|error| Status::internal(format!("convert a stored object: {error}")))?;
    }
    if resource.is_custom() {
        object = with_defaults(resource, object);
    }
    Ok(object)
}

/// A custom resource with the present defaults of its definition, and without malformed metadata.
fn with_defaults(resource: &Resource, mut object: Value) -> Value {
    resource.kind.repair(&mut object);
    resource.kind.default(&mut object);
    object
}

/// A stored custom resource in a form that clients can read. As kube-apiserver, metadata fields of a wrong type,
/// which an earlier program version stored, are removed, and an annotation lists them. Otherwise one such object
/// would make every list fail.
pub(crate) fn readable<'s>(resource: &Resource, stored: &'s KeyValue) -> Cow<'s, KeyValue> {
    if !resource.is_custom()
        || is_complete(resource, stored)
        || has_typed_metadata(resource, stored)
    {
        return Cow::Borrowed(stored);
    }
    // An object that is not JSON is reported when it is decoded.
    let Ok(mut object) = parse(&stored.value) else {
        return Cow::Borrowed(stored);
    };
    let wrong = resource.kind.repair(&mut object).join(", ");
    let metadata = metadata::of(&mut object);
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(MALFORMED_METADATA.to_owned(), wrong.into());
    }
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let (kind, api_version) = (text("kind"), text("apiVersion"));
    Cow::Owned(KeyValue {
        value: encode_as_at(kind, api_version, &object, stored.mod_revision),
        omittable: Omittable::UNKNOWN,
        ..stored.clone()
    })
}

/// Whether an earlier read has shown that a custom resource has the form that clients get.
fn is_complete(resource: &Resource, stored: &KeyValue) -> bool {
    let complete = resource.complete_objects();
    complete.is_some_and(|objects| objects.contains(&stored.value))
}

fn has_typed_metadata(resource: &Resource, stored: &KeyValue) -> bool {
    let text = scan::metadata_without_managed_fields(stored).concat();
    let Ok(metadata) = parse(&text) else {
        return false;
    };
    let mut object = json!({ "metadata": metadata });
    resource.kind.repair(&mut object).is_empty()
}

/// A stored object, decoded for a write.
pub(crate) struct DecodedObject {
    pub(crate) tree: Value,
    pub(crate) managers: Managers,
    /// The parts that are not in the tree.
    pub(crate) parts: Parts,
}

/// Decodes a stored object without its managed fields, which stay text. Parts of which only some fields are read stay
/// text too, if the stored form is the form of the resource.
pub(crate) fn decode_apart(
    resource: &Resource,
    stored: &KeyValue,
    reads: &'static [FieldRead],
) -> Result<DecodedObject, Status> {
    decode_parts(resource, stored, reads).map_err(|why| unreadable(resource, stored, &why))
}

fn decode_parts(
    resource: &Resource,
    stored: &KeyValue,
    reads: &'static [FieldRead],
) -> Result<DecodedObject, Status> {
    let text = utf8(&stored.value)?;
    let has_client_form = resource.is_shown_as_stored();
    let reads = if has_client_form { reads } else { &[] };
    let PartialTree {
        tree,
        part_ranges: ranges,
        left_out,
    } = partial_tree(
        text,
        reads,
        &scan::MANAGED_FIELDS,
        scan::managed_fields_named(stored),
    )
    .map_err(undecodable)?;
    let managed = left_out.map(|range| ManagedFields::stored(stored.value.slice(range)));
    Ok(DecodedObject {
        tree: match reads {
            [] => present(resource, tree)?,
            _ => tree,
        },
        managers: Managers::Apart(managed.transpose()?),
        parts: Parts::stored(&stored.value, ranges),
    })
}

pub(crate) fn parse(json: &[u8]) -> Result<Value, Status> {
    tree(utf8(json)?).map_err(undecodable)
}

/// One UTF-8 check of the whole text is faster than a check of each string.
fn utf8(json: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(json).map_err(undecodable)
}

/// The bytes of an object for a client of this resource: the stored bytes, unless their form belongs to another kind,
/// or defaults may be missing.
pub(crate) fn bytes(resource: &Resource, stored: &KeyValue) -> Result<Bytes, Status> {
    converted(resource, stored).map(|(bytes, _)| bytes)
}

/// As [`bytes`], without the managed fields.
pub(crate) fn bytes_without_managed_fields(
    resource: &Resource,
    stored: &KeyValue,
) -> Result<Bytes, Status> {
    let (bytes, omittable) = converted(resource, stored)?;
    Ok(scan::without_managed_fields(&bytes, omittable))
}

fn converted(resource: &Resource, stored: &KeyValue) -> Result<(Bytes, Omittable), Status> {
    let is_own = || is_of_type(&stored.value, &resource.info());
    let is_ready = match resource.is_custom() {
        // The conversion has set the defaults.
        true if resource.webhook().is_some() => is_own(),
        true => is_complete(resource, stored),
        false => !resource.shared || is_own(),
    };
    let as_stored = || (stored.value.clone(), stored.omittable);
    if is_ready {
        return Ok(as_stored());
    }
    let object = decode(resource, stored)?;
    let bytes = encode_at(&resource.info(), &object, stored.mod_revision);
    match resource.complete_objects() {
        Some(complete) if bytes == stored.value => {
            complete.insert(&bytes);
            Ok(as_stored())
        }
        _ => Ok((bytes, Omittable::UNKNOWN)),
    }
}

/// The response to a failure of the store.
pub(crate) fn refusal(error: &StoreError) -> Status {
    match error {
        StoreError::Compacted { requested, oldest } => Status::new(
            StatusReason::Expired,
            format!("too old resource version: {} ({})", requested.0, oldest.0),
        ),
        StoreError::Future { requested, newest } => too_large(*requested, *newest),
        StoreError::WatcherTooSlow => Status::new(StatusReason::Expired, error.to_string()),
        StoreError::Closed => Status::new(StatusReason::ServiceUnavailable, error.to_string()),
        StoreError::TooLarge(_) => Status::new(
            StatusReason::RequestEntityTooLarge,
            format!("Request entity too large: {error}"),
        ),
        // The reason may contain addresses of etcd, which clients must not see.
        StoreError::Unavailable(reason) | StoreError::Replaced(reason) => {
            tracing::warn!(reason, "the store does not answer");
            let text = "the store does not answer; the log of the server has the reason";
            Status::new(StatusReason::ServiceUnavailable, text)
        }
        StoreError::OutcomeUnknown(reason) => {
            tracing::warn!(reason, "the outcome of a write is unknown");
            let text = "the store did not say whether the write was carried out";
            Status::new(StatusReason::Timeout, text)
        }
        // The store itself has logged this, once.
        StoreError::Full(_) | StoreError::Quota { .. } => {
            Status::new(StatusReason::InsufficientStorage, error.to_string())
        }
        other => {
            tracing::error!(error = %other, "store failed");
            Status::internal(other.to_string())
        }
    }
}

/// 504 for a resource version that does not exist yet, with the cause that clients check.
pub(crate) fn too_large(requested: Revision, newest: Revision) -> Status {
    let text = format!(
        "Too large resource version: {}, current: {}",
        requested.0, newest.0
    );
    let mut status = Status::new(StatusReason::Timeout, format!("Timeout: {text}"));
    status.details = Some(Box::new(StatusDetails {
        causes: vec![Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }],
        retry_after_seconds: 1,
        ..StatusDetails::default()
    }));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_do_not_learn_the_addresses_of_the_store() {
        for (error, code) in [
            (
                StoreError::Unavailable("https://192.0.2.11:2379".to_owned()),
                503,
            ),
            (
                StoreError::OutcomeUnknown("https://192.0.2.11:2379".to_owned()),
                504,
            ),
        ] {
            let status = refusal(&error);
            assert_eq!(status.code, code);
            assert!(!status.message.contains("192.0.2.11"), "{}", status.message);
        }
    }
}
