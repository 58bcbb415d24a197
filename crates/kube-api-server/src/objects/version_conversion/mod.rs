//! Conversion of custom resources by the webhook of their definition, between the version in which they are stored and
//! the version of a request. Kinds without a webhook are converted synchronously, where they are decoded.
//!
//! No call is made within a transaction. The order of the steps is that of kube-apiserver: a stored object gets the
//! defaults of the version in which it is stored, is converted, and then loses the fields that are unknown in the new
//! version. A written object is validated in the version of the request only.

pub(crate) mod call;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use json_tree::Value;
use mvcc_store::{KeyValue, Omittable};
use object_model::Status;

use crate::catalog::registry::Resource;
use crate::catalog::snapshot::Snapshot;
use crate::http::limits::{CONVERSION_BYTES_MAX, CONVERSION_CALLS_MAX, CONVERSION_OBJECTS_MAX};
use crate::http::work;
use crate::objects::converted_objects::{Claim, ConversionKey, ConversionLookup, PendingResult};
use crate::objects::storage::{self, Objects};

/// A stored object that this request converts.
struct ClaimedObject<'o> {
    index: usize,
    item: &'o KeyValue,
    claim: Claim<'o>,
}

/// The resource that the present definitions describe; a long request may have the resource of an older definition.
/// `None` if the version is not served.
fn present(served: &Snapshot, resource: &Resource) -> Option<Arc<Resource>> {
    let info = resource.info();
    served.registry.find(info.group, info.version, info.plural)
}

impl Objects {
    /// Whether stored objects of the resource must go through [`in_version`](Self::in_version).
    pub(crate) fn has_conversion(&self, resource: &Resource) -> bool {
        let has_webhook = |resource: &Resource| resource.webhook().is_some();
        let is_now = || {
            let present = present(&self.catalog.snapshot(), resource);
            present.as_deref().is_some_and(has_webhook)
        };
        resource.is_custom() && (has_webhook(resource) || is_now())
    }

    /// Whether an object is stored in the storage version of its kind.
    pub(crate) fn is_in_storage_version(&self, resource: &Resource, stored: &KeyValue) -> bool {
        let served = self.catalog.snapshot();
        let present = present(&served, resource);
        let present = present.as_deref().unwrap_or(resource);
        let Some(storage) = present.storage_version() else {
            return true;
        };
        stored_version(stored).as_deref() == Some(storage)
    }

    /// As [`in_version`](Self::in_version), for one object.
    ///
    /// *Errors.* As of [`in_version`](Self::in_version).
    pub(crate) async fn one_in_version(
        &self,
        resource: &Resource,
        item: KeyValue,
    ) -> Result<KeyValue, Status> {
        if !self.has_conversion(resource) {
            return Ok(item);
        }
        let converted = self.in_version(resource, vec![item]).await?;
        let one = converted.into_iter().next();
        one.ok_or_else(|| Status::internal("the conversion returned no object"))
    }

    /// Stored objects in the version of the resource, with defaults. Objects of a kind without a webhook stay as they
    /// are stored.
    ///
    /// *Errors.* 500 if the webhook fails, with upstream's text.
    pub(crate) async fn in_version(
        &self,
        resource: &Resource,
        items: Vec<KeyValue>,
    ) -> Result<Vec<KeyValue>, Status> {
        if !self.has_conversion(resource) {
            return Ok(items);
        }
        work::expect(items.iter().map(|item| item.value.len()).sum()).await;
        let served = self.catalog.snapshot();
        let present = present(&served, resource);
        let target = present.as_deref().unwrap_or(resource);
        let readable = |item: &KeyValue| storage::readable(resource, item).into_owned();
        let items: Vec<KeyValue> = items.iter().map(readable).collect();
        let api_version = target.info().api_version();
        let mut converted: Vec<Option<Bytes>> = vec![None; items.len()];
        let mut foreign = Vec::new();
        for (index, item) in items.iter().enumerate() {
            if stored_version(item).as_deref() == Some(api_version.as_str()) {
                converted[index] = Some(with_defaults(target, item)?);
            } else {
                foreign.push(index);
            }
        }
        while !foreign.is_empty() {
            foreign = self
                .convert_once(&served, target, &items, foreign, &mut converted)
                .await?;
        }
        let pairs = items.into_iter().zip(converted);
        let pairs = pairs.map(|(item, bytes)| {
            let value = bytes.ok_or_else(|| Status::internal("an object was not converted"))?;
            Ok(KeyValue {
                value,
                omittable: Omittable::UNKNOWN,
                ..item
            })
        });
        pairs.collect()
    }

    /// Converts the objects that no other request converts, and waits for the others. Returns the objects whose
    /// conversion was cancelled by its request.
    async fn convert_once(
        &self,
        served: &Snapshot,
        target: &Resource,
        items: &[KeyValue],
        indices: Vec<usize>,
        converted: &mut [Option<Bytes>],
    ) -> Result<Vec<usize>, Status> {
        let api_version: Arc<str> = target.info().api_version().into();
        let mut claimed = Vec::new();
        let mut pending: Vec<(usize, PendingResult)> = Vec::new();
        for index in indices {
            let item = &items[index];
            let key = ConversionKey {
                key: item.key.clone(),
                revision: item.mod_revision,
                api_version: api_version.clone(),
                spec_hash: target.spec_hash(),
            };
            match self.converted_objects.lookup(key) {
                ConversionLookup::Cached(bytes) => converted[index] = Some(bytes),
                ConversionLookup::Pending(result) => pending.push((index, result)),
                ConversionLookup::Claimed(claim) => {
                    claimed.push(ClaimedObject { index, item, claim })
                }
            }
        }
        let mut batches = batches(claimed).into_iter();
        loop {
            let batches = batches.by_ref().take(CONVERSION_CALLS_MAX);
            let calls: Vec<_> = batches
                .map(|batch| self.convert_batch(served, target, batch))
                .collect();
            if calls.is_empty() {
                break;
            }
            for results in join_all(calls).await {
                for (index, bytes) in results? {
                    converted[index] = Some(bytes);
                }
            }
        }
        let mut cancelled = Vec::new();
        for (index, mut result) in pending {
            let result = match result.wait_for(Option::is_some).await {
                Ok(result) => result.clone(),
                Err(_) => None,
            };
            match result {
                Some(result) => converted[index] = Some(result?),
                None => cancelled.push(index),
            }
        }
        Ok(cancelled)
    }

    /// Converts the objects of one call, and publishes the results.
    async fn convert_batch(
        &self,
        served: &Snapshot,
        target: &Resource,
        batch: Vec<ClaimedObject<'_>>,
    ) -> Result<Vec<(usize, Bytes)>, Status> {
        let originals = batch
            .iter()
            .map(|object| original(served, target, object.item));
        let originals: Result<Vec<Value>, Status> = originals.collect();
        let objects = match originals {
            Ok(originals) => self.converted(target, originals).await,
            Err(status) => Err(status),
        };
        let objects = match objects {
            Ok(objects) => objects,
            Err(status) => {
                for object in batch {
                    object.claim.finish(Err(status.clone()));
                }
                return Err(status);
            }
        };
        let mut results = Vec::with_capacity(batch.len());
        for (claimed, object) in batch.into_iter().zip(objects) {
            let revision = claimed.item.mod_revision;
            let bytes = pruned(target, object)
                .map(|object| storage::encode_at(&target.info(), &object, revision));
            claimed.claim.finish(bytes.clone());
            results.push((claimed.index, bytes?));
        }
        Ok(results)
    }

    /// The form in which a new state of an object is stored: the resource of the storage version, and the object in this
    /// version. `None` if the object is stored in the version of the resource.
    ///
    /// *Errors.* 500 if the webhook fails, with upstream's text.
    pub(crate) async fn storage_form(
        &self,
        resource: &Resource,
        object: &Value,
    ) -> Result<Option<(Arc<Resource>, Value)>, Status> {
        if !resource.is_custom() {
            return Ok(None);
        }
        let served = self.catalog.snapshot();
        let present = present(&served, resource);
        let version = present.as_deref().unwrap_or(resource).storage_version();
        let Some(version) = version.filter(|version| *version != resource.info().api_version())
        else {
            return Ok(None);
        };
        let Some(storage) = served.registry.in_version(resource, version) else {
            return Ok(None);
        };
        let object = self.object_in(storage, object.clone()).await?;
        Ok(Some((storage.clone(), object)))
    }

    /// An object that is not stored, in the version of the resource.
    ///
    /// *Errors.* 500 if the webhook fails, with upstream's text.
    pub(crate) async fn object_in(
        &self,
        target: &Resource,
        object: Value,
    ) -> Result<Value, Status> {
        let is_converted = object["apiVersion"] == target.info().api_version();
        if is_converted || target.webhook().is_none() {
            return pruned(target, object);
        }
        let objects = self.converted(target, vec![object]).await?;
        let object = objects.into_iter().next();
        let object = object.ok_or_else(|| Status::internal("the conversion returned no object"))?;
        pruned(target, object)
    }
}

/// Group and version of a stored object; `None` if they are not readable.
fn stored_version(stored: &KeyValue) -> Option<Cow<'_, str>> {
    let version = json_text::find_string(&stored.value, &["apiVersion"]);
    version.ok().flatten()
}

/// The objects of each call.
fn batches(objects: Vec<ClaimedObject<'_>>) -> Vec<Vec<ClaimedObject<'_>>> {
    let mut batches = Vec::new();
    let mut batch: Vec<ClaimedObject<'_>> = Vec::new();
    let mut bytes = 0;
    for object in objects {
        let length = object.item.value.len();
        let is_full =
            batch.len() >= CONVERSION_OBJECTS_MAX || bytes + length > CONVERSION_BYTES_MAX;
        if is_full && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += length;
        batch.push(object);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// A stored object with the defaults of the version in which it is stored.
fn original(served: &Snapshot, target: &Resource, item: &KeyValue) -> Result<Value, Status> {
    let object = storage::parse(&item.value);
    let object = object.map_err(|why| storage::unreadable(target, item, &why))?;
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    match served.registry.in_version(target, api_version) {
        Some(stored_as) => as_stored(stored_as, object),
        // The webhook may know a version that the definition no longer has.
        None => Ok(object),
    }
}

/// A stored object in the version of the resource, with its defaults.
fn with_defaults(target: &Resource, item: &KeyValue) -> Result<Bytes, Status> {
    let object = storage::parse(&item.value);
    let object = object.map_err(|why| storage::unreadable(target, item, &why))?;
    let object = as_stored(target, object)?;
    let revision = item.mod_revision;
    Ok(storage::encode_at(&target.info(), &object, revision))
}

/// A stored object without unknown fields and malformed metadata, and with the present defaults of its version.
fn as_stored(stored_as: &Resource, mut object: Value) -> Result<Value, Status> {
    stored_as.kind.repair(&mut object);
    let mut object = pruned(stored_as, object)?;
    stored_as.kind.default(&mut object);
    Ok(object)
}

/// A converted object without the fields that are unknown in its version.
fn pruned(target: &Resource, object: Value) -> Result<Value, Status> {
    let object = target.kind.decode(object);
    object.map_err(|error| Status::internal(format!("convert an object: {error}")))
}
