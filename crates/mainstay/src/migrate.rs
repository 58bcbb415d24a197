//! `mainstay migrate`: creates StorageVersionMigrations and waits for their ends.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use cluster_inspection::Server;
use command_output::output::{print_line, warn};
use k8s_openapi::api::storagemigration::v1beta1::{
    StorageVersionMigration, StorageVersionMigrationSpec,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, GroupResource, ObjectMeta};
use kube_api_client::{Api, DeleteParams, PostParams};

use crate::settings::ServerArguments;

/// Time between two reads of a migration.
const INTERVAL: Duration = Duration::from_millis(200);

/// Arguments of `mainstay migrate`.
#[derive(clap::Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct MigrateArguments {
    /// Resources with their group, which is the name of a CustomResourceDefinition, such as certificates.cert-manager.io
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    server: ServerArguments,
}

const AFTER_HELP: &str = "\
Objects that were stored before the storage version of their definition changed keep their former
version. The command creates a StorageVersionMigration for each name, waits until all objects are
stored in the storage version and the other versions are no longer in status.storedVersions, and
deletes the StorageVersionMigration. After that the definition may drop these versions. Objects may
be read and written meanwhile.

Exit status: 0 if all objects have the storage version, 1 otherwise.

Examples:
  mainstay migrate certificates.cert-manager.io";

/// Migrates the objects of the resources.
pub async fn run(arguments: MigrateArguments) -> Result<()> {
    let server = arguments.server.find().await?;
    for name in &arguments.names {
        let message = migrate(&server, name).await;
        let message = message.with_context(|| format!("migrate {name}"))?;
        print_line(&format!("{name}: {message}"));
    }
    Ok(())
}

/// Runs a migration to its end; returns the message of its success.
async fn migrate(server: &Server, name: &str) -> Result<String> {
    let api: Api<StorageVersionMigration> = Api::all(server.client.clone());
    let created = api
        .create(&PostParams::default(), &migration_of(name))
        .await
        .map_err(|error| server.explain(error))?;
    let id = created.metadata.name.context("the migration has no name")?;
    let result = wait(server, &api, &id).await;
    let deleted = api.delete(&id, &DeleteParams::default()).await;
    let message = result?;
    deleted.map_err(|error| server.explain(error))?;
    let definitions: Api<CustomResourceDefinition> = Api::all(server.client.clone());
    let definition = definitions.get_opt(name).await;
    let definition = definition.map_err(|error| server.explain(error))?;
    if definition.is_some_and(|definition| !is_trimmed(&definition)) {
        bail!("the definition has changed meanwhile; run the command again");
    }
    Ok(message)
}

/// The migration of a resource, whose name is its plural and its group.
fn migration_of(name: &str) -> StorageVersionMigration {
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    StorageVersionMigration {
        metadata: ObjectMeta {
            generate_name: Some("mainstay-migrate-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(StorageVersionMigrationSpec {
            resource: GroupResource {
                group: group.to_owned(),
                resource: plural.to_owned(),
            },
        }),
        status: None,
    }
}

/// Waits for the end of the migration; prints what delays it.
async fn wait(server: &Server, api: &Api<StorageVersionMigration>, id: &str) -> Result<String> {
    let mut obstacle = String::new();
    loop {
        let migration = api.get(id).await.map_err(|error| server.explain(error))?;
        match State::of(migration) {
            State::Succeeded(message) => return Ok(message),
            State::Failed(message) => bail!(message),
            State::Delayed(message) if message != obstacle => {
                warn(&message);
                obstacle = message;
            }
            State::Delayed(_) | State::Waiting => {}
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The state of a migration, with the message of its condition.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Delayed(String),
    Succeeded(String),
    Failed(String),
}

impl State {
    /// A migration whose condition `Running` is still there has not reached its definition.
    fn of(migration: StorageVersionMigration) -> Self {
        let conditions = migration.status.and_then(|status| status.conditions);
        let mut conditions = conditions.unwrap_or_default();
        let mut take = |kind: &str| -> Option<Condition> {
            let index = conditions.iter().position(|one| one.type_ == kind)?;
            Some(conditions.swap_remove(index))
        };
        match take("Running") {
            Some(running) if running.reason == "MigrationDelayed" => {
                return Self::Delayed(running.message);
            }
            Some(_) => return Self::Waiting,
            None => {}
        }
        let end = |condition: Option<Condition>| {
            let condition = condition.filter(|condition| condition.status == "True");
            condition.map(|condition| condition.message)
        };
        match (end(take("Succeeded")), end(take("Failed"))) {
            (Some(message), _) => Self::Succeeded(message),
            (None, Some(message)) => Self::Failed(message),
            (None, None) => Self::Waiting,
        }
    }
}

/// Whether `status.storedVersions` has the storage version alone.
fn is_trimmed(definition: &CustomResourceDefinition) -> bool {
    let versions = definition.spec.versions.iter();
    let storage = versions
        .filter(|version| version.storage)
        .map(|version| &version.name);
    let stored = definition.status.as_ref();
    let stored = stored.and_then(|status| status.stored_versions.as_ref());
    storage.eq(stored.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn a_resource_has_a_group_after_its_first_dot() {
        for (name, group, plural) in [
            ("boats.example.org", "example.org", "boats"),
            ("configmaps", "", "configmaps"),
        ] {
            let resource = migration_of(name).spec.unwrap().resource;
            assert_eq!((&*resource.group, &*resource.resource), (group, plural));
        }
    }

    #[test]
    fn a_migration_has_ended_when_its_definition_was_reached() {
        let state_for = |reason: &str, conditions: &[(&str, &str)]| {
            let condition = |(kind, status): &(&str, &str)| {
                json!({"type": kind, "status": status, "reason": reason, "message": kind,
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            };
            let conditions: Vec<Value> = conditions.iter().map(condition).collect();
            let migration = json!({"metadata": {}, "spec": {"resource": {"group": "g",
                "resource": "r"}}, "status": {"conditions": conditions}});
            State::of(from_value(migration).unwrap())
        };
        let state = |conditions: &[(&str, &str)]| state_for("R", conditions);
        assert_eq!(state(&[]), State::Waiting);
        assert_eq!(state(&[("Running", "True")]), State::Waiting);
        let delayed = state_for("MigrationDelayed", &[("Running", "True")]);
        assert_eq!(delayed, State::Delayed("Running".to_owned()));
        let both = [("Running", "False"), ("Succeeded", "True")];
        assert_eq!(state(&both), State::Waiting);
        assert_eq!(state(&both[1..]), State::Succeeded("Succeeded".to_owned()));
        let failed = State::Failed("Failed".to_owned());
        assert_eq!(state(&[("Failed", "True")]), failed);
        assert_eq!(state(&[("Failed", "False")]), State::Waiting);
    }

    #[test]
    fn the_storage_version_alone_remains() {
        let trimmed = |stored: &[&str]| {
            let definition = json!({"metadata": {}, "status": {"storedVersions": stored},
                "spec": {"group": "example.org", "scope": "Cluster",
                    "names": {"kind": "Boat", "plural": "boats"},
                    "versions": [{"name": "v1", "served": true, "storage": false},
                        {"name": "v2", "served": true, "storage": true}]}});
            is_trimmed(&from_value(definition).unwrap())
        };
        assert!(trimmed(&["v2"]));
        assert!(!trimmed(&["v1", "v2"]) && !trimmed(&["v1"]));
    }
}
