//! A version of a custom kind is dropped after `mainstay migrate` (edge.md, section 1.3).

use end_to_end::Instance;
use end_to_end::program::ok;
use serde_json::{Value, json};

const KIND: &str = "crd/widgets.example.com";

/// A definition whose last version is the storage version.
fn definition(versions: &[&str]) -> String {
    let version = |(index, name): (usize, &&str)| -> Value {
        let spec = json!({"type": "object", "properties": {"size": {"type": "integer"}}});
        json!({"name": name, "served": true, "storage": index + 1 == versions.len(),
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}})
    };
    let versions: Vec<Value> = versions.iter().enumerate().map(version).collect();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": versions,
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"}}})
    .to_string()
}

#[test]
fn a_version_is_dropped_after_the_migration() {
    let instance = Instance::start(&[]);
    let kubectl = instance.kubectl();
    kubectl.apply(&definition(&["v1"]));
    kubectl.ok(&["wait", "--for=condition=Established", KIND]);
    for size in [1, 2, 3] {
        let widget = json!({"apiVersion": "example.com/v1", "kind": "Widget",
            "metadata": {"name": format!("w{size}")}, "spec": {"size": size}});
        kubectl.apply(&widget.to_string());
    }
    kubectl.apply(&definition(&["v1", "v2"]));
    let stored = || kubectl.ok(&["get", KIND, "-o", "jsonpath={.status.storedVersions}"]);
    assert_eq!(stored(), r#"["v1","v2"]"#);
    let refused = kubectl.run_with_input(&["apply", "-f", "-"], &definition(&["v2"]));
    let reason = "must remain in spec.versions until a storage migration";
    assert!(refused.stderr.contains(reason), "{refused:?}");

    let data = instance.data().display().to_string();
    let output = ok(&["migrate", "widgets.example.com", "--data-dir", &data]);
    assert_eq!(output, "widgets.example.com: 3 objects are stored in v2\n");
    assert_eq!(stored(), r#"["v2"]"#);
    kubectl.apply(&definition(&["v2"]));
    let path = "/apis/example.com/v2/namespaces/default/widgets";
    let widgets: Value = serde_json::from_str(&kubectl.ok(&["get", "--raw", path])).expect("JSON");
    let items = widgets["items"].as_array().expect("items");
    let sizes: Vec<&Value> = items.iter().map(|item| &item["spec"]["size"]).collect();
    assert_eq!(sizes, [1, 2, 3]);
}
