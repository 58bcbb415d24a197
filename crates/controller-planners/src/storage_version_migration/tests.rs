use json_tree::{Value, from_value, json};

use super::*;

const NOW: &str = "2026-03-01T00:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn migration(name: &str, minute: u32, conditions: Value) -> StorageVersionMigration {
    let created = format!("2026-01-01T00:{minute:02}:00Z");
    from_value(
        json!({"metadata": {"name": name, "creationTimestamp": created},
        "spec": {"resource": {"group": "example.org", "resource": "boats"}},
        "status": {"conditions": conditions}}),
    )
    .unwrap()
}

fn condition_of(kind: &str, status: &str) -> Value {
    json!({"type": kind, "status": status, "reason": "Because", "message": "",
        "lastTransitionTime": "2026-02-01T00:00:00Z"})
}

fn definition(generation: i64, status: Value) -> CustomResourceDefinition {
    from_value(
        json!({"metadata": {"name": "boats.example.org", "generation": generation},
        "spec": {"group": "example.org", "scope": "Namespaced",
            "names": {"kind": "Boat", "plural": "boats"},
            "versions": [{"name": "v1", "served": true, "storage": false},
                {"name": "v2", "served": true, "storage": true}]},
        "status": status}),
    )
    .unwrap()
}

#[test]
fn the_oldest_migration_starts_and_others_wait_for_its_end() {
    let first = migration("b", 1, json!([]));
    let second = migration("a", 2, json!([]));
    let same_age = migration("c", 1, json!([]));
    let all = [&second, &same_age, &first];
    assert_eq!(plan(&all, None), MigrationStep::Start(&first));
    let running = migration("a", 2, json!([condition_of("Running", "True")]));
    assert_eq!(
        plan(&[&first, &running], None),
        MigrationStep::Write(&running)
    );
    assert_eq!(plan(&[], None), MigrationStep::Leave);
}

#[test]
fn a_migration_that_is_being_deleted_does_not_start() {
    let mut deleted = migration("a", 1, json!([]));
    deleted.metadata.deletion_timestamp = Some(Time(now()));
    assert_eq!(plan(&[&deleted], None), MigrationStep::Leave);
}

#[test]
fn an_end_is_marked_at_the_definition_before_the_next_migration_starts() {
    for ending in Ending::ALL {
        let conditions = [
            condition_of("Running", "False"),
            condition_of(ending.name(), "True"),
        ];
        let ended = migration("a", 1, json!(conditions));
        let next = migration("b", 2, json!([]));
        assert_eq!(
            plan(&[&next, &ended], None),
            MigrationStep::Finish(&ended, ending)
        );
        let mut done = ended.clone();
        done.status.as_mut().unwrap().conditions = Some(finished(&ended));
        assert_eq!(plan(&[&next, &done], None), MigrationStep::Start(&next));
        assert_eq!(plan(&[&done], None), MigrationStep::Leave);
    }
}

#[test]
fn the_definition_of_a_deleted_migration_is_no_longer_migrated() {
    let stored = json!({"conditions": [condition_of("Established", "True")]});
    let mut definition = definition(3, stored);
    assert_eq!(plan(&[], Some(&definition)), MigrationStep::Leave);
    definition.status = Some(definition_started(&definition, "a", now()));
    assert_eq!(plan(&[], Some(&definition)), MigrationStep::Abandon);
    definition.status = Some(definition_ended(&definition, Ending::Failed, now()));
    assert_eq!(plan(&[], Some(&definition)), MigrationStep::Leave);
    let conditions = definition.status.unwrap().conditions.unwrap();
    let kinds: Vec<&str> = conditions.iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(kinds, ["Established", "StorageMigrating"]);
}

#[test]
fn stored_versions_are_trimmed_after_a_success_of_the_same_generation() {
    let both = json!({"storedVersions": ["v1", "v2"]});
    let stored_after = |started: i64, ended: i64, ending: Ending| {
        let mut of_start = definition(started, both.clone());
        of_start.status = Some(definition_started(&of_start, "a", now()));
        let mut of_end = definition(ended, Value::Null);
        of_end.status = of_start.status;
        let status = definition_ended(&of_end, ending, now());
        status.stored_versions.unwrap()
    };
    assert_eq!(stored_after(3, 3, Ending::Succeeded), ["v2"]);
    assert_eq!(stored_after(3, 4, Ending::Succeeded), ["v1", "v2"]);
    assert_eq!(stored_after(3, 3, Ending::Failed), ["v1", "v2"]);
    // Nobody has seen the start.
    let status = definition_ended(&definition(3, both), Ending::Succeeded, now());
    assert_eq!(status.stored_versions.unwrap(), ["v1", "v2"]);
}

#[test]
fn running_has_the_obstacle_and_the_time_of_its_start() {
    let mut one = migration("a", 1, json!([]));
    one.status.as_mut().unwrap().conditions = Some(running(&one, None, now()));
    let later = "2026-03-02T00:00:00Z".parse().unwrap();
    let conditions = running(&one, Some("x: refused"), later);
    assert_eq!(conditions.len(), 1);
    assert_eq!(conditions[0].message, "x: refused");
    assert_eq!(conditions[0].reason, "MigrationDelayed");
    assert_eq!(conditions[0].last_transition_time.0, now());
    let conditions = ended(&one, Ending::Succeeded, "done", later);
    let texts: Vec<(&str, &str)> = conditions
        .iter()
        .map(|condition| (condition.type_.as_str(), condition.status.as_str()))
        .collect();
    assert_eq!(texts, [("Running", "False"), ("Succeeded", "True")]);
}
