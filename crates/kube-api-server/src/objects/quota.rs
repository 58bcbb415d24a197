//! ResourceQuotas: a write that changes the usage of a quota updates the quota's status in its transaction, so
//! concurrent writes never exceed a quota.
//!
//! The usage of a quota is recounted after the quota is created or changed, because other writes run meanwhile. The
//! transaction of the quota also changes the guard key of its namespace. Every other write in the namespace compares
//! the guard: a later write therefore reads the quota, and an earlier write is part of the recount. Quotas are also
//! recounted periodically, because objects that expire (events) are not subtracted, and to correct a wrong count.

use std::sync::Weak;

use bytes::Bytes;
use json_tree::Value;
use mvcc_store::{Compare, KeyValue, Operation as Write, Range, Txn, Value as Stored};
use object_model::Status;
use resource_kinds::quota as rules;

use crate::catalog::registry::{Resource, end_of};
use crate::http::limits::{QUOTA_RECOUNT_INTERVAL, WRITE_ATTEMPTS_MAX};
use crate::http::work;
use crate::objects::storage::{self, Managers, Objects, Parts, encode, reading};

/// The old and the new state of an object.
#[derive(Clone, Copy)]
pub(crate) struct QuotaChange<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) old: Option<&'a Value>,
    pub(crate) new: Option<&'a Value>,
    /// The parts of both objects that are not in their trees.
    pub(crate) parts: &'a Parts,
}

/// Adds the effect of a change on the quotas of its namespace to the transaction. These comparisons are the last.
///
/// *Errors.* 403 with upstream's text if a quota does not allow the change.
pub(crate) async fn charge(
    objects: &Objects,
    change: QuotaChange<'_>,
    txn: &mut Txn,
) -> Result<(), Status> {
    let info = change.resource.info();
    let (group, plural) = rules::QUOTAS;
    if !change.resource.namespaced() {
        return Ok(());
    }
    let Some(quotas) = objects.catalog.any_version(group, plural) else {
        return Ok(());
    };
    let is_guarded = guard(objects, change.namespace, txn).await?;
    if !is_guarded && objects.limited_resources.is_empty() {
        return Ok(());
    }
    let start = quotas.prefix(change.namespace);
    let end = Some(end_of(&start));
    let range = Range {
        start,
        end,
        ..Range::default()
    };
    let object_key = change.resource.key(change.namespace, change.name);
    let items = objects.read_range(range).await?.items;
    if items.is_empty() && objects.limited_resources.is_empty() {
        return Ok(());
    }
    let whole = |object: Option<_>| object.map(|one| change.parts.whole(one)).transpose();
    let (old, new) = (whole(change.old)?, whole(change.new)?);
    let forbidden = |why: String| Status::forbidden(info.group, info.plural, change.name, &why);
    let others = items.iter().filter(|item| *item.key != *object_key);
    let all = others.map(|item| Ok((item, objects.shared(&quotas, item)?)));
    let all: Vec<_> = all.collect::<Result<_, Status>>()?;
    let present = all.iter().map(|(_, quota)| &**quota);
    let limited = &objects.limited_resources;
    let (group, plural, old, new) = (info.group, info.plural, old.as_deref(), new.as_deref());
    rules::limited::check_cover(limited, present, group, plural, old, new)
        .map_err(|error| forbidden(error.to_string()))?;
    for (item, quota) in &all {
        let charged = rules::charge(quota, group, plural, old, new);
        let Some(charged) = charged.map_err(|error| forbidden(error.to_string()))? else {
            continue;
        };
        let key = item.key.to_vec();
        txn.compare
            .push(Compare::ModRevision(key.clone(), item.mod_revision));
        txn.operations.push(Write::Put {
            key,
            value: encode(&quotas.info(), &charged),
            lease: item.lease,
        });
    }
    Ok(())
}

fn guard_key(namespace: &str) -> Vec<u8> {
    format!("/quota-guards/{namespace}").into_bytes()
}

/// Makes the transaction fail if a quota is created or changed before its commit. For this, the guard is read before
/// the quotas. Returns whether the guard exists: without a guard, the namespace never had a quota.
async fn guard(objects: &Objects, namespace: &str, txn: &mut Txn) -> Result<bool, Status> {
    let key = guard_key(namespace);
    let range = Range {
        start: key.clone(),
        ..Range::default()
    };
    let guard_item = objects.read_range(range).await?.items.pop();
    let is_guarded = guard_item.is_some();
    txn.compare.push(match guard_item {
        Some(guard) => Compare::ModRevision(key, guard.mod_revision),
        None => Compare::Absent(key),
    });
    Ok(is_guarded)
}

/// Creates the guard of a namespace whose quota was stored by a version of the program without guards.
async fn make_guard(objects: &Objects, namespace: &str) -> Result<(), Status> {
    let key = guard_key(namespace);
    let txn = Txn {
        compare: vec![Compare::Absent(key.clone())],
        operations: vec![put_guard(key)],
    };
    let result = objects.store.txn(txn).await;
    result.map(|_| ()).map_err(|error| storage::refusal(&error))
}

fn put_guard(key: Vec<u8>) -> Write {
    Write::Put {
        key,
        value: Stored::Plain(Bytes::new()),
        lease: None,
    }
}

/// Adds the write of the namespace's guard key to the transaction that creates or changes a quota.
pub(crate) fn announce(resource: &Resource, namespace: &str, txn: &mut Txn) {
    if is_quota(resource) {
        txn.operations.push(put_guard(guard_key(namespace)));
    }
}

fn is_quota(resource: &Resource) -> bool {
    (resource.info().group, resource.info().plural) == rules::QUOTAS
}

/// Recounts the usage of a new or changed quota until no concurrent write has changed it meanwhile; returns the
/// quota.
///
/// *Errors.* The store fails.
pub(crate) async fn settle(
    objects: &Objects,
    resource: &Resource,
    mut stored: KeyValue,
) -> Result<KeyValue, Status> {
    if !is_quota(resource) {
        return Ok(stored);
    }
    for _ in 0..WRITE_ATTEMPTS_MAX {
        if let Some(settled) = recount(objects, resource, &stored).await? {
            return Ok(settled);
        }
        let (namespace, name) = resource.names(&stored.key);
        match objects.read(resource, namespace, name).await? {
            Some(newer) => stored = newer,
            None => return Ok(stored),
        }
        work::let_others_go_first().await;
    }
    // The next periodic recount follows soon.
    Ok(stored)
}

/// Counts the usage of a quota at one revision; `None` if the quota has changed meanwhile, also before that revision: an
/// equal usage of an earlier quota does not show that the quota is correct. Every write that affects the usage changes the
/// quota.
async fn recount(
    objects: &Objects,
    resource: &Resource,
    stored: &KeyValue,
) -> Result<Option<KeyValue>, Status> {
    let quota = storage::decode(resource, stored)?;
    let (namespace, _) = resource.names(&stored.key);
    let revision = objects.store.current_revision();
    let newest = Range {
        start: stored.key.to_vec(),
        revision: Some(revision),
        ..Range::default()
    };
    let newest = objects.read_range(newest).await?.items.pop();
    if newest.is_none_or(|newest| newest.mod_revision != stored.mod_revision) {
        return Ok(None);
    }
    let mut listed = Vec::new();
    for (group, plural) in rules::kinds(&quota) {
        let Some(kind) = objects.catalog.any_version(&group, &plural) else {
            continue;
        };
        let start = kind.prefix(namespace);
        let range = Range {
            end: Some(end_of(&start)),
            start,
            revision: Some(revision),
            limit: None,
        };
        let items = objects.read_range(range).await?.items;
        work::expect(items.iter().map(|item| item.value.len()).sum()).await;
        for item in &items {
            let object = objects.decode_unconverted(&kind, item)?;
            listed.push((group.clone(), plural.clone(), object));
        }
    }
    let all = listed
        .iter()
        .map(|(group, plural, object)| (group.as_str(), plural.as_str(), object));
    let status = rules::count(&quota, all);
    if status == quota["status"] {
        return Ok(Some(stored.clone()));
    }
    let mut counted = quota;
    counted["status"] = status;
    objects
        .replace(resource, stored, &counted, &Managers::Within, Parts::NONE)
        .await
}

/// Recounts all quotas, at the start and at intervals, until the server is dropped.
pub(crate) async fn recount_periodically(objects: Weak<Objects>) {
    loop {
        {
            let Some(objects) = objects.upgrade() else {
                return;
            };
            if let Err(error) = recount_all(&objects).await {
                tracing::warn!(%error, "quotas could not be counted");
            }
        }
        tokio::time::sleep(QUOTA_RECOUNT_INTERVAL).await;
    }
}

pub(crate) async fn recount_all(objects: &Objects) -> Result<(), Status> {
    let (group, plural) = rules::QUOTAS;
    let Some(quotas) = objects.catalog.any_version(group, plural) else {
        return Ok(());
    };
    let start = quotas.prefix("");
    let range = Range {
        end: Some(end_of(&start)),
        start,
        ..Range::default()
    };
    for item in objects.read_range(range).await?.items {
        make_guard(objects, quotas.names(&item.key).0).await?;
        settle(objects, &quotas, item).await?;
    }
    Ok(())
}

/// Sets the status of a quota to the current usage.
///
/// *Errors.* 500 for unreadable objects.
pub(crate) fn count(
    objects: &Objects,
    resource: &Resource,
    namespace: &str,
    object: &mut Value,
) -> Result<(), Status> {
    let info = resource.info();
    if (info.group, info.plural) != rules::QUOTAS {
        return Ok(());
    }
    let list = |group: &str, plural: &str| {
        reading(objects, |reads| Ok(reads.all(group, plural, namespace)))
    };
    let listed = rules::kinds(object).into_iter().map(|(group, plural)| {
        let objects = list(&group, &plural)?;
        Ok((group, plural, objects))
    });
    let listed = listed.collect::<Result<Vec<_>, Status>>()?;
    let counted: Vec<(String, String, Value)> = listed
        .into_iter()
        .flat_map(|(group, plural, mut objects)| {
            let is_itself = |other: &Value| other["metadata"]["name"] == object["metadata"]["name"];
            if (&*group, &*plural) == rules::QUOTAS && !objects.iter().any(is_itself) {
                objects.push(object.clone());
            }
            let named = move |object| (group.clone(), plural.clone(), object);
            objects.into_iter().map(named)
        })
        .collect();
    let all = counted
        .iter()
        .map(|(group, plural, object)| (group.as_str(), plural.as_str(), object));
    object["status"] = rules::count(object, all);
    Ok(())
}
