//! Quotas of namespaces: each write that uses more or less of one changes its status in the same
//! transaction, so that a quota is never exceeded, however many write at once, and nothing is
//! charged that is not there.

use mvcc_store::{Compare, Operation as Write, Range, Txn};
use object_model::Status;
use resource_kinds::{Lookup, usage};
use serde_json::Value;

use crate::registry::{Resource, end_of};
use crate::server::ApiServer;
use crate::storage::{self, encode, reading};

/// Writes that are made anew because another one has changed a quota in between.
pub(crate) const ATTEMPTS_MAX: usize = 200;

/// An object as it is and as it is to be.
#[derive(Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) old: Option<&'a Value>,
    pub(crate) new: Option<&'a Value>,
}

/// Adds to the transaction of a change what it does to the quotas of its namespace. The
/// comparisons come last.
///
/// *Errors.* 403 in upstream's words if a quota does not allow the change.
pub(crate) async fn charge(
    server: &ApiServer,
    change: Change<'_>,
    txn: &mut Txn,
) -> Result<(), Status> {
    let info = change.resource.info();
    let (group, plural) = usage::QUOTAS;
    if !change.resource.namespaced() {
        return Ok(());
    }
    let Some(quotas) = server.served().registry.any_version(group, plural) else {
        return Ok(());
    };
    let start = quotas.prefix(change.namespace);
    let end = Some(end_of(&start));
    let range = Range {
        start,
        end,
        ..Range::default()
    };
    let own = change.resource.key(change.namespace, change.name);
    for item in server.read_range(range).await?.items {
        if *item.key == *own {
            continue;
        }
        let quota = storage::decode(&quotas, &item)?;
        let charged = usage::charge(&quota, (info.group, info.plural), change.old, change.new);
        let charged =
            charged.map_err(|why| Status::forbidden(info.group, info.plural, change.name, &why))?;
        let Some(charged) = charged else {
            continue;
        };
        let key = item.key.to_vec();
        txn.compare
            .push(Compare::ModRevision(key.clone(), item.mod_revision));
        txn.operations.push(Write::Put {
            key,
            value: encode(quotas.info(), &charged),
            lease: item.lease,
        });
    }
    Ok(())
}

/// Sets the status of a quota to what is used now, by itself as well; other objects stay as they are.
///
/// *Errors.* 500 for what cannot be read.
pub(crate) fn count(
    server: &ApiServer,
    resource: &Resource,
    namespace: &str,
    object: &mut Value,
) -> Result<(), Status> {
    let info = resource.info();
    if (info.group, info.plural) != usage::QUOTAS {
        return Ok(());
    }
    let list = |group: &str, plural: &str| {
        reading(server, |reads| Ok(reads.list(group, plural, namespace)))
    };
    let listed = usage::kinds(object).into_iter().map(|(group, plural)| {
        let objects = list(&group, &plural)?;
        Ok((group, plural, objects))
    });
    let listed = listed.collect::<Result<Vec<_>, Status>>()?;
    let found: Vec<(String, String, Value)> = listed
        .into_iter()
        .flat_map(|(group, plural, mut objects)| {
            let is_itself = |other: &Value| other["metadata"]["name"] == object["metadata"]["name"];
            if (&*group, &*plural) == usage::QUOTAS && !objects.iter().any(is_itself) {
                objects.push(object.clone());
            }
            let named = move |object| (group.clone(), plural.clone(), object);
            objects.into_iter().map(named)
        })
        .collect();
    let all = found
        .iter()
        .map(|(group, plural, object)| (group.as_str(), plural.as_str(), object));
    object["status"] = usage::count(object, all);
    Ok(())
}
