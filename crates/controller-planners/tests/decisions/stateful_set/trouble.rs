//! Objects that a user has written: whatever their contents are, there is a plan that respects the rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use controller_planners::stateful_set::{invariants, plan};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::situation::{describe, now, parse, revision_name};

/// The possible contents of a revision that a user has edited.
fn data() -> impl Strategy<Value = Option<Value>> {
    let odd = vec![
        None,
        Some(Value::Null),
        Some(json!("text")),
        Some(json!([1, 2])),
        Some(json!({"spec": {"template": ["no", "template"]}})),
        Some(json!({"spec": {"template": {"spec": {"containers": "none"}}}})),
        Some(json!({"spec": {"template": {"$patch": "replace", "spec": {"containers": []}}}})),
    ];
    prop::sample::select(odd)
}

fn text() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "web",
        "web-",
        "-1",
        "x",
        "web-7985dbcf6d",
        "\u{e9}",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Revisions with unusual data, names, labels and numbers, and statuses that name other revisions.
    #[test]
    fn odd_revisions_and_statuses_have_a_plan(
        odd in data(),
        label in text(),
        number in prop::sample::select(vec![i64::MIN, -1, 0, 7, i64::MAX]),
        named in prop::option::of(text()),
        words in prop::sample::select(vec!["", "partition=1", "parallel", "limit=0", "on-delete"]),
        orphan in any::<bool>(),
    ) {
        let mut observed = parse(&format!(
            "set replicas=3 template=b current=a {words}
             revisions a=1 b=2 c=3
             pod 0 ready a
             pod 2 running c"
        ));
        for revision in &mut observed.revisions {
            if revision.metadata.name == Some(revision_name("b")) {
                continue;
            }
            let revision = Arc::make_mut(revision);
            revision.data = odd.clone().map(RawExtension);
            revision.revision = number;
            revision.metadata.labels = Some(BTreeMap::from([("app".to_owned(), label.to_owned())]));
            if orphan {
                revision.metadata.owner_references = None;
            }
        }
        if let Some(named) = named {
            let status = Arc::make_mut(&mut observed.set).status.get_or_insert_default();
            status.current_revision = Some(named.to_owned());
            status.update_revision = Some(named.to_owned());
            status.replicas = -3;
            status.current_replicas = Some(i32::MAX);
        }
        let plan = plan(&observed, now()).unwrap();
        let broken = invariants::violations(&observed, &plan, now());
        prop_assert!(broken.is_empty(), "{broken:?}\n{}", describe(&plan));
    }
}
