//! CustomResourceDefinitions: the catalog follows the stored definitions.

use std::sync::Arc;

use custom_resources::{GROUP, PLURAL};
use json_tree::Value;
use mvcc_store::{KeyValue, Range, Revision};
use object_model::Status;

use crate::catalog::registry::{Resource, end_of};
use crate::objects::storage::{self, Objects};

/// The kind at a path. A definition that was stored a moment ago is read, too, because a watcher may observe a
/// definition before the request that stored it gets its response.
///
/// *Errors.* The store fails.
pub(crate) async fn find_kind(
    objects: &Objects,
    group: &str,
    version: &str,
    plural: &str,
) -> Result<Option<Arc<Resource>>, Status> {
    let served = objects.catalog.snapshot();
    let resource = served.registry.find(group, version, plural);
    if resource.is_some() {
        return Ok(resource);
    }
    let Some(definitions) = served.registry.any_version(GROUP, PLURAL) else {
        return Ok(None);
    };
    if revisions_of(&stored(objects, &definitions).await?) == served.revisions {
        return Ok(None);
    }
    follow(objects).await?;
    let served = objects.catalog.snapshot();
    Ok(served.registry.find(group, version, plural))
}

/// Updates the catalog from the stored definitions, so that the kinds of a definition are served before a client sees
/// the change.
///
/// *Errors.* The store fails; the catalog stays.
pub(crate) async fn follow(objects: &Objects) -> Result<(), Status> {
    // Updates run one after the other, so that an older read never replaces a newer result.
    let _lock = objects.catalog.definitions.lock().await;
    let served = objects.catalog.snapshot();
    let Some(resource) = served.registry.any_version(GROUP, PLURAL) else {
        return Ok(());
    };
    let stored_definitions = stored(objects, &resource).await?;
    let revisions = revisions_of(&stored_definitions);
    if revisions == served.revisions {
        return Ok(());
    }
    let definitions = stored_definitions
        .iter()
        .map(|item| storage::decode(&resource, item));
    let definitions: Result<Vec<Value>, Status> = definitions.collect();
    objects.catalog.replace(&definitions?, revisions);
    Ok(())
}

async fn stored(objects: &Objects, resource: &Resource) -> Result<Vec<KeyValue>, Status> {
    let start = resource.prefix("");
    let range = Range {
        end: Some(end_of(&start)),
        start,
        ..Range::default()
    };
    let listed = objects.store.range(range).await;
    let listed = listed.map_err(|error| Status::internal(error.to_string()))?;
    Ok(listed.items)
}

fn revisions_of(definitions: &[KeyValue]) -> Vec<(Arc<[u8]>, Revision)> {
    let one = |item: &KeyValue| (item.key.clone(), item.mod_revision);
    definitions.iter().map(one).collect()
}
