//! Guarded writes: if the object was changed or deleted since it was read, nothing is written, and
//! the cache delivers its new state.

use api_client::{Api, Patch, PatchParams};
use reconcile::Object;
use reconcile::execute::unless_outrun;
use serde_json::Value;

use crate::ProvisionerError as Error;

/// Merges a patch into the object, if it is unchanged.
pub(crate) async fn merge<K: Object>(
    api: &Api<K>,
    seen: &K,
    mut patch: Value,
) -> Result<(), Error> {
    patch["metadata"]["resourceVersion"] = seen.meta().resource_version.clone().into();
    let (name, patch) = of_same(seen, patch);
    let written = api.patch(name, &PatchParams::default(), &patch).await;
    unless_outrun(written)?;
    Ok(())
}

/// Merges a patch into the status of the object, if it is still the same one.
pub(crate) async fn merge_status<K: Object>(
    api: &Api<K>,
    seen: &K,
    patch: Value,
) -> Result<(), Error> {
    let (name, patch) = of_same(seen, patch);
    let written = api
        .patch_status(name, &PatchParams::default(), &patch)
        .await;
    unless_outrun(written)?;
    Ok(())
}

/// The object's name, and the patch for this object only, not for a new one of the same name.
fn of_same<K: Object>(seen: &K, mut patch: Value) -> (&str, Patch<Value>) {
    let meta = seen.meta();
    patch["metadata"]["uid"] = meta.uid.clone().into();
    (
        meta.name.as_deref().unwrap_or_default(),
        Patch::Merge(patch),
    )
}
