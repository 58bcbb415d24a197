//! CustomResourceDefinitions: the catalog follows the stored ones.

use std::sync::Arc;

use custom_resources::{GROUP, PLURAL};
use json_tree::Value;
use mvcc_store::{KeyValue, Range, Revision};
use object_model::Status;

use crate::catalog::registry::{Resource, end_of};
use crate::objects::storage::{self, Objects};

/// The kind of a path, also if its definition was stored just now: a watcher may see a definition
/// before the request that stored it has its response.
///
/// *Errors.* A store that fails.
pub(crate) async fn find_kind(
    objects: &Objects,
    group: &str,
    version: &str,
    plural: &str,
) -> Result<Option<Arc<Resource>>, Status> {
    let served = objects.catalog.snapshot();
    let found = served.registry.find(group, version, plural);
    if found.is_some() {
        return Ok(found);
    }
    let Some(definitions) = served.registry.any_version(GROUP, PLURAL) else {
        return Ok(None);
    };
    if known(&stored(objects, &definitions).await?) == served.known {
        return Ok(None);
    }
    follow(objects).await?;
    let served = objects.catalog.snapshot();
    Ok(served.registry.find(group, version, plural))
}

/// Updates the catalog from the stored definitions. The kinds of a definition are served before a client sees
/// the change.
///
/// *Errors.* The store fails; the catalog stays.
pub(crate) async fn follow(objects: &Objects) -> Result<(), Status> {
    // One after the other, so that an older reading never replaces a newer one.
    let _turn = objects.catalog.definitions.lock().await;
    let served = objects.catalog.snapshot();
    let Some(resource) = served.registry.any_version(GROUP, PLURAL) else {
        return Ok(());
    };
    let found = stored(objects, &resource).await?;
    let known = known(&found);
    if known == served.known {
        return Ok(());
    }
    let definitions = found.iter().map(|item| storage::decode(&resource, item));
    let definitions: Result<Vec<Value>, Status> = definitions.collect();
    objects.catalog.replace(&definitions?, known);
    Ok(())
}

/// The definitions as they are stored.
async fn stored(objects: &Objects, resource: &Resource) -> Result<Vec<KeyValue>, Status> {
    let start = resource.prefix("");
    let range = Range {
        end: Some(end_of(&start)),
        start,
        ..Range::default()
    };
    let found = objects.store.range(range).await;
    let found = found.map_err(|error| Status::internal(error.to_string()))?;
    Ok(found.items)
}

fn known(definitions: &[KeyValue]) -> Vec<(Arc<[u8]>, Revision)> {
    let one = |item: &KeyValue| (item.key.clone(), item.mod_revision);
    definitions.iter().map(one).collect()
}
