//! The table of reach, `docs/contributing/reach.md`: every served field that a client may write, with its effect
//! outside of its own object.
//!
//! The table is the data of these tests. A field that is in the served OpenAPI documents and not in the table is an
//! error, so a new field cannot be served before its effect is documented.

mod fields;
mod page;

use std::collections::BTreeSet;
use std::path::Path;

use json_tree::Value;

use fields::Leaves;
use page::{Page, Row};

use super::harness::Api;

/// The principals that must be on the page.
const PRINCIPALS: &[&str] = &[
    "container",
    "user with `view`",
    "user with `edit`",
    "user with `admin`",
    "account of a pod",
    "node certificate",
    "join token",
    "network neighbour",
    "user of the machine",
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn page() -> Page {
    Page::read(&root().join("docs/contributing/reach.md"))
}

/// findings-2 S34, S36, S37: each field of each served kind has a row, and each row has a field.
#[tokio::test(flavor = "multi_thread")]
async fn every_served_field_has_a_row() {
    let api = Api::with_policies().await;
    let (_, index) = api.get("/openapi/v3").await;
    let mut leaves = Leaves::default();
    for path in index["paths"].as_object().unwrap().keys() {
        let (code, document) = api.get(&format!("/openapi/v3/{path}")).await;
        assert_eq!(code, 200, "{path}");
        leaves.add(&document);
    }
    let page = page();
    let mut wrong = Vec::new();
    for kind in leaves.kinds() {
        let is_elsewhere = page.without_reach.contains(kind);
        if page.sections.contains_key(kind) == is_elsewhere {
            wrong.push(format!(
                "{kind}: one section, or one row of the kinds without reach"
            ));
        }
    }
    for (kind, section) in &page.sections {
        let served = leaves.of(kind);
        if served.is_empty() {
            wrong.push(format!("{kind} is not served"));
        }
        wrong.extend(
            section
                .differences(&served)
                .map(|text| format!("{kind}: {text}")),
        );
    }
    let metadata = leaves.metadata();
    wrong.extend(
        page.metadata
            .differences(&metadata)
            .map(|text| format!("metadata: {text}")),
    );
    let unknown = page
        .without_reach
        .iter()
        .filter(|kind| leaves.of(kind).is_empty());
    wrong.extend(unknown.map(|kind| format!("{kind} is not served")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The row of a field with an effect contains the limits for its writers, and tests that exist.
#[test]
fn every_effect_has_a_limit_and_a_test() {
    let page = page();
    let mut wrong = Vec::new();
    for (section, row) in page.rows() {
        if row.has_reach() && (row.stops.is_empty() || row.tests.is_empty()) {
            wrong.push(format!("{section}: {} has no limit or no test", row.text));
        }
        let is_proven = !row.stops.is_empty() || !row.tests.is_empty();
        if is_proven && !row.has_reach() {
            wrong.push(format!("{section}: {} has no reach to stop", row.text));
        }
        wrong.extend(missing(row).map(|test| format!("{section}: {test} does not exist")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The tests of a row that do not exist.
fn missing(row: &Row) -> impl Iterator<Item = &String> {
    row.tests.iter().filter(|test| {
        let exists = test.split_once("::").is_some_and(|(file, name)| {
            let text = std::fs::read_to_string(root().join(file)).unwrap_or_default();
            text.contains(&format!("fn {name}("))
        });
        !exists
    })
}

/// The writers of a kind in the table are those of the default roles.
#[tokio::test(flavor = "multi_thread")]
async fn the_default_roles_allow_the_writers_of_the_table() {
    let api = Api::with_policies().await;
    let page = page();
    let (_, groups) = api.get("/apis").await;
    let mut paths = vec!["/api/v1".to_owned()];
    for group in groups["groups"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            paths.push(format!(
                "/apis/{}",
                version["groupVersion"].as_str().unwrap()
            ));
        }
    }
    let mut wrong = BTreeSet::new();
    for role in ["view", "edit", "admin"] {
        let rules = rules(&api, role).await;
        for path in &paths {
            let (_, list) = api.get(path).await;
            let group = path
                .strip_prefix("/apis/")
                .and_then(|path| path.split('/').next());
            for resource in list["resources"].as_array().unwrap() {
                let kind = resource["kind"].as_str().unwrap();
                let name = resource["name"].as_str().unwrap();
                let Some(section) = page.sections.get(kind).filter(|_| !name.contains('/')) else {
                    continue;
                };
                let may_write = allows_a_write(&rules, group.unwrap_or_default(), name);
                if section.writers.contains(role) != may_write {
                    wrong.insert(format!("{kind}: `{role}` may write it: {may_write}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The rules of a default role, including the roles that are aggregated into it.
async fn rules(api: &Api, role: &str) -> Vec<Value> {
    let (_, list) = api
        .get("/apis/rbac.authorization.k8s.io/v1/clusterroles")
        .await;
    let label = format!("rbac.authorization.k8s.io/aggregate-to-{role}");
    let parts = list["items"].as_array().unwrap().iter();
    parts
        .filter(|role| role["metadata"]["labels"][&label] == "true")
        .flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default())
        .collect()
}

fn allows_a_write(rules: &[Value], group: &str, resource: &str) -> bool {
    let has = |rule: &Value, field: &str, values_allowed: &[&str]| {
        let values = rule[field].as_array().into_iter().flatten();
        values
            .filter_map(Value::as_str)
            .any(|value| value == "*" || values_allowed.contains(&value))
    };
    rules.iter().any(|rule| {
        has(rule, "apiGroups", &[group])
            && has(rule, "resources", &[resource])
            && has(rule, "verbs", &["create", "update", "patch"])
    })
}

/// Each label and annotation that the program reads or writes has a row.
#[test]
fn every_label_and_annotation_that_decides_has_a_row() {
    let page = page();
    let mut wrong = Vec::new();
    for file in ["annotations.rs", "labels.rs"] {
        let path = root()
            .join("crates/resource-kinds/src/well_known")
            .join(file);
        let text = std::fs::read_to_string(path).unwrap();
        let keys = text.lines().filter_map(|line| {
            let (_, after) = line.strip_prefix("pub const ")?.split_once(" = \"")?;
            after.strip_suffix("\";")
        });
        wrong.extend(
            keys.filter(|key| !page.keys.contains(*key))
                .map(str::to_owned),
        );
    }
    assert!(wrong.is_empty(), "without a row: {wrong:#?}");
}

#[test]
fn every_principal_has_a_row() {
    let page = page();
    let missing: Vec<_> = PRINCIPALS
        .iter()
        .filter(|principal| !page.principals.contains(**principal))
        .collect();
    assert!(missing.is_empty(), "without a row: {missing:#?}");
}
