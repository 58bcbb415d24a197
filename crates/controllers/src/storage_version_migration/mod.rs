//! The controller of StorageVersionMigrations: executor of [`controller_planners::storage_version_migration`].

mod write;

use std::sync::Arc;

use controller_framework::{Cache, Queue, ReconcileResult, object_key};
use controller_planners::storage_version_migration::{
    Ending, MigrationStep, definition_ended, definition_started, ended, finished, is_migrating,
    plan, running,
};
use jiff::Timestamp;
use json_tree::{Value, json};
use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube_api_client::guarded_writes::unless_outrun;
use kube_api_client::{Api, Client, Patch, PatchParams};

use crate::Context;
use write::{MigratedResource, WriteError};

/// The error of processing the migrations of a resource.
#[derive(Debug, thiserror::Error)]
#[error("migrate stored objects")]
struct Error(#[from] kube_api_client::Error);

/// A resource: group and plural.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Resource {
    group: String,
    plural: String,
}

impl Resource {
    /// The resource of a migration; `None` if it has no spec, which the API server refuses.
    fn of(migration: &StorageVersionMigration) -> Option<Self> {
        let resource = &migration.spec.as_ref()?.resource;
        Some(Self {
            group: resource.group.clone(),
            plural: resource.resource.clone(),
        })
    }

    fn of_definition(definition: &CustomResourceDefinition) -> Self {
        Self {
            group: definition.spec.group.clone(),
            plural: definition.spec.names.plural.clone(),
        }
    }

    /// The name that a definition of the resource has.
    fn definition_name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

struct StorageVersionMigrations {
    client: Client,
    migrations: Cache<StorageVersionMigration>,
    definitions: Cache<CustomResourceDefinition>,
    api: Api<StorageVersionMigration>,
    definition_api: Api<CustomResourceDefinition>,
}

pub(crate) async fn run(context: Context) {
    let controller = StorageVersionMigrations {
        client: context.client.clone(),
        migrations: context.cache(),
        definitions: context.caches.definitions.clone(),
        api: Api::all(context.client.clone()),
        definition_api: Api::all(context.client.clone()),
    };
    context.run("storage_version_migration", controller).await;
}

impl controller_framework::Controller for StorageVersionMigrations {
    type Key = Resource;
    type Error = Error;

    const WORKERS: usize = 5;

    async fn wait_synced(&self) -> bool {
        self.migrations.wait_synced().await && self.definitions.wait_synced().await
    }

    async fn feed(&self, queue: &Queue<Resource>) {
        let mut migrations = self.migrations.subscribe();
        let mut definitions = self.definitions.subscribe();
        loop {
            tokio::select! {
                change = migrations.next() => match change {
                    Some(change) => {
                        if let Some(resource) = Resource::of(change.object()) {
                            queue.add(resource);
                        }
                    }
                    None => return,
                },
                change = definitions.next() => match change {
                    Some(change) => {
                        let definition = change.object();
                        if is_migrating(definition) {
                            queue.add(Resource::of_definition(definition));
                        }
                    }
                    None => return,
                },
            }
        }
    }

    async fn reconcile(&self, resource: &Resource) -> Result<ReconcileResult, Error> {
        let all = self.migrations.list();
        let of_resource = all.iter().map(Arc::as_ref);
        let of_resource: Vec<&StorageVersionMigration> = of_resource
            .filter(|migration| Resource::of(migration).as_ref() == Some(resource))
            .collect();
        let definition = self.definitions.get("", &resource.definition_name());
        let definition = definition.as_deref();
        let now = Timestamp::now();
        match plan(&of_resource, definition) {
            MigrationStep::Leave => {}
            MigrationStep::Start(migration) => {
                let name = object_key(migration).name;
                let started = |definition: &_| definition_started(definition, &name, now);
                if self.mark(definition, started).await? {
                    self.set_conditions(migration, running(migration, None, now))
                        .await?;
                }
            }
            MigrationStep::Write(migration) => self.write(migration, resource, definition).await?,
            MigrationStep::Finish(migration, ending) => {
                let ended = |definition: &_| definition_ended(definition, ending, now);
                if self.mark(definition, ended).await? {
                    self.set_conditions(migration, finished(migration)).await?;
                }
            }
            MigrationStep::Abandon => {
                let ended = |definition: &_| definition_ended(definition, Ending::Failed, now);
                self.mark(definition, ended).await?;
            }
        }
        Ok(ReconcileResult::Done)
    }
}

impl StorageVersionMigrations {
    /// Writes the objects, and the end of the migration. An error that may pass leaves the migration running.
    async fn write(
        &self,
        migration: &StorageVersionMigration,
        resource: &Resource,
        definition: Option<&CustomResourceDefinition>,
    ) -> Result<(), Error> {
        let result = self.write_all(migration, resource, definition).await;
        // The writes may take minutes, in which somebody may have labelled the migration.
        let Some(migration) = self.current(migration) else {
            return Ok(());
        };
        let migration = &*migration;
        let is_final = result.as_ref().is_err_and(WriteError::is_final);
        let now = Timestamp::now();
        let conditions = match &result {
            Ok(None) => return Ok(()),
            Ok(Some(text)) => ended(migration, Ending::Succeeded, text, now),
            Err(error) if is_final => ended(migration, Ending::Failed, &error.to_string(), now),
            Err(error) => running(migration, Some(&error.to_string()), now),
        };
        let before = migration.status.as_ref();
        let before = before.and_then(|status| status.conditions.as_ref());
        if before != Some(&conditions) {
            self.set_conditions(migration, conditions).await?;
        }
        match result {
            Err(WriteError::Api(_, error)) if !is_final => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Writes the objects; returns the message of the success. `None` if the migration was changed, which adds it to the queue
    /// again.
    async fn write_all(
        &self,
        migration: &StorageVersionMigration,
        resource: &Resource,
        definition: Option<&CustomResourceDefinition>,
    ) -> Result<Option<String>, WriteError> {
        let target = match definition {
            Some(definition) => MigratedResource::of_definition(definition)?,
            None => {
                MigratedResource::of_discovery(&self.client, &resource.group, &resource.plural)
                    .await?
            }
        };
        let status = migration.status.as_ref();
        if status.is_none_or(|status| status.resource_version.is_none()) {
            let version = target.resource_version(&self.client).await?;
            let status = json!({ "resourceVersion": version });
            let written = self.patch_status(migration, status).await;
            written.map_err(|error| WriteError::Api(object_key(migration).to_string(), error))?;
            return Ok(None);
        }
        let is_wanted = || self.current(migration).is_some();
        let count = target.write_objects(&self.client, is_wanted).await?;
        Ok(count.map(|count| format!("{count} objects are stored in {}", target.version())))
    }

    /// The migration in the cache; `None` if it was deleted.
    fn current(&self, migration: &StorageVersionMigration) -> Option<Arc<StorageVersionMigration>> {
        let current = self.migrations.get("", &object_key(migration).name)?;
        (current.metadata.uid == migration.metadata.uid).then_some(current)
    }

    async fn set_conditions(
        &self,
        migration: &StorageVersionMigration,
        conditions: Vec<Condition>,
    ) -> Result<(), Error> {
        let status = json!({ "conditions": conditions });
        Ok(self.patch_status(migration, status).await?)
    }

    async fn patch_status(
        &self,
        migration: &StorageVersionMigration,
        status: Value,
    ) -> kube_api_client::Result<()> {
        let patch = guarded(&migration.metadata, status);
        let name = object_key(migration).name;
        let params = PatchParams::default();
        unless_outrun(self.api.patch_status(&name, &params, &patch).await).map(drop)
    }

    /// Writes the status of the definition, if there is one. Returns whether it was still as observed; otherwise its change adds
    /// the resource to the queue.
    async fn mark(
        &self,
        definition: Option<&CustomResourceDefinition>,
        status: impl FnOnce(&CustomResourceDefinition) -> CustomResourceDefinitionStatus,
    ) -> Result<bool, Error> {
        let Some(definition) = definition else {
            return Ok(true);
        };
        let patch = guarded(&definition.metadata, json!(status(definition)));
        let name = object_key(definition).name;
        let params = PatchParams::default();
        let written = self
            .definition_api
            .patch_status(&name, &params, &patch)
            .await;
        Ok(unless_outrun(written)?.is_some())
    }
}

/// A patch of the status that has no effect if the object has changed.
fn guarded(observed: &ObjectMeta, status: Value) -> Patch<Value> {
    let metadata = json!({
        "uid": observed.uid,
        "resourceVersion": observed.resource_version,
    });
    Patch::Merge(json!({ "metadata": metadata, "status": status }))
}
