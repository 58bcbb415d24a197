//! StorageVersionMigrations: all objects of a resource are written in its storage version (KEP-4192).
//!
//! **Goal**: of the migrations of a resource the oldest runs, until it has succeeded or failed. While one runs, the definition
//! of a custom resource has the condition `StorageMigrating`; after a success, `status.storedVersions` has the storage version
//! alone. **Relies on**: a write of an object without a change stores it in the storage version. **Guarantees**: stored versions
//! are removed only if the definition has the generation that it had at the start.

use jiff::Timestamp;
use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::crd_names::storage_version;

/// The condition of a running migration.
const RUNNING: &str = "Running";

/// The reason of a migration that nothing delays.
const RUNNING_REASON: &str = "MigrationRunning";

/// The condition of a definition whose objects are migrated.
const MIGRATING: &str = "StorageMigrating";

/// The end of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Succeeded,
    Failed,
}

impl Ending {
    const ALL: [Self; 2] = [Self::Succeeded, Self::Failed];

    /// The type of the condition.
    fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// The action for a resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MigrationStep<'m> {
    /// No action.
    Leave,
    /// Marks the definition, and then this migration, as running.
    Start(&'m StorageVersionMigration),
    /// Writes the objects, and then the end of this migration.
    Write(&'m StorageVersionMigration),
    /// Marks the end at the definition, and removes the condition `Running` of this migration.
    Finish(&'m StorageVersionMigration, Ending),
    /// Marks the end at the definition, whose migration was deleted.
    Abandon,
}

/// Plans the action for a resource from all of its migrations, and its definition, if it is a custom resource.
pub fn plan<'m>(
    migrations: &[&'m StorageVersionMigration],
    definition: Option<&CustomResourceDefinition>,
) -> MigrationStep<'m> {
    let mut open = Vec::new();
    for migration in migrations {
        match ending(migration) {
            Some(ending) if condition(migration, RUNNING).is_some() => {
                return MigrationStep::Finish(migration, ending);
            }
            Some(_) => {}
            None => open.push(*migration),
        }
    }
    if let Some(running) = open.iter().find(|migration| holds(migration, RUNNING)) {
        return MigrationStep::Write(running);
    }
    let waiting = open
        .iter()
        .filter(|migration| migration.metadata.deletion_timestamp.is_none());
    let age = |migration: &&&StorageVersionMigration| {
        let meta = &migration.metadata;
        let since = meta.creation_timestamp.as_ref().map(|time| time.0);
        (since, meta.name.clone())
    };
    match waiting.min_by_key(age) {
        Some(oldest) => MigrationStep::Start(oldest),
        None if definition.is_some_and(is_migrating) => MigrationStep::Abandon,
        None => MigrationStep::Leave,
    }
}

/// Whether the definition's condition says that its objects are migrated.
pub fn is_migrating(definition: &CustomResourceDefinition) -> bool {
    migrating(definition).is_some_and(|condition| condition.status == "True")
}

fn migrating(definition: &CustomResourceDefinition) -> Option<&CustomResourceDefinitionCondition> {
    let conditions = definition.status.iter();
    let mut conditions = conditions.flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == MIGRATING)
}

/// The end that the migration has.
fn ending(migration: &StorageVersionMigration) -> Option<Ending> {
    let mut all = Ending::ALL.into_iter();
    all.find(|ending| holds(migration, ending.name()))
}

fn condition<'m>(migration: &'m StorageVersionMigration, kind: &str) -> Option<&'m Condition> {
    let conditions = migration.status.iter();
    let mut conditions = conditions.flat_map(|status| status.conditions.iter().flatten());
    conditions.find(|condition| condition.type_ == kind)
}

fn holds(migration: &StorageVersionMigration, kind: &str) -> bool {
    condition(migration, kind).is_some_and(|condition| condition.status == "True")
}

/// The conditions of a migration that runs; the message is the obstacle, if there is one.
pub fn running(
    migration: &StorageVersionMigration,
    obstacle: Option<&str>,
    now: Timestamp,
) -> Vec<Condition> {
    let (reason, message) = match obstacle {
        Some(obstacle) => ("MigrationDelayed", obstacle),
        None => (RUNNING_REASON, "The migration is running"),
    };
    let mut conditions = without(migration, &[RUNNING]);
    let since = condition(migration, RUNNING).filter(|before| before.status == "True");
    let since = since.map_or(now, |before| before.last_transition_time.0);
    conditions.push(new_condition(RUNNING, reason, message, since));
    conditions
}

/// The conditions of a migration at its end. `Running` stays, with the status `False`, until the definition is marked.
pub fn ended(
    migration: &StorageVersionMigration,
    ending: Ending,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let reason = match ending {
        Ending::Succeeded => "StorageVersionMigrationSucceeded",
        Ending::Failed => "StorageVersionMigrationFailed",
    };
    let mut conditions = without(migration, &[RUNNING, ending.name()]);
    conditions.push(Condition {
        status: "False".to_owned(),
        ..new_condition(RUNNING, reason, "", now)
    });
    conditions.push(new_condition(ending.name(), reason, message, now));
    conditions
}

/// The conditions of a migration after its end was marked at the definition.
pub fn finished(migration: &StorageVersionMigration) -> Vec<Condition> {
    without(migration, &[RUNNING])
}

fn without(migration: &StorageVersionMigration, kinds: &[&str]) -> Vec<Condition> {
    let conditions = migration.status.iter();
    let conditions = conditions.flat_map(|status| status.conditions.iter().flatten());
    let others = conditions.filter(|condition| !kinds.contains(&condition.type_.as_str()));
    others.cloned().collect()
}

fn new_condition(kind: &str, reason: &str, message: &str, since: Timestamp) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Time(since),
        observed_generation: None,
    }
}

/// The status of a definition whose objects the migration of this name is going to write.
pub fn definition_started(
    definition: &CustomResourceDefinition,
    migration: &str,
    now: Timestamp,
) -> CustomResourceDefinitionStatus {
    let message = format!("Migration {migration} is running");
    with_migrating(definition, ("True", RUNNING_REASON, &message), now)
}

/// The status of a definition at the end of the migration.
pub fn definition_ended(
    definition: &CustomResourceDefinition,
    ending: Ending,
    now: Timestamp,
) -> CustomResourceDefinitionStatus {
    let observed = migrating(definition).and_then(|condition| condition.observed_generation);
    let is_same = observed.is_some() && observed == definition.metadata.generation;
    let (reason, message) = match (ending, is_same) {
        (Ending::Failed, _) => ("MigrationFailed", "The migration has failed"),
        (Ending::Succeeded, true) => (
            "MigrationSucceeded",
            "The migration has succeeded and the stored versions have been updated",
        ),
        (Ending::Succeeded, false) => (
            "MigrationSucceeded",
            "The migration has succeeded but the stored versions have not been updated due to a \
             generation mismatch",
        ),
    };
    let mut status = with_migrating(definition, ("False", reason, message), now);
    if ending == Ending::Succeeded && is_same {
        let stored = storage_version(definition).map(str::to_owned);
        status.stored_versions = stored.map(|version| vec![version]);
    }
    status
}

fn with_migrating(
    definition: &CustomResourceDefinition,
    (status, reason, message): (&str, &str, &str),
    now: Timestamp,
) -> CustomResourceDefinitionStatus {
    let mut all = definition.status.clone().unwrap_or_default();
    let conditions = all.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != MIGRATING);
    conditions.push(CustomResourceDefinitionCondition {
        type_: MIGRATING.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_transition_time: Some(Time(now)),
        observed_generation: definition.metadata.generation,
    });
    all
}

#[cfg(test)]
mod tests;
