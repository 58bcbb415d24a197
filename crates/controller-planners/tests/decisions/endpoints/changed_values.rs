//! Slices and Endpoints of which another program changes one value.

use k8s_openapi::serde::Serialize;
use k8s_openapi::serde::de::DeserializeOwned;

use super::*;

/// Copies of the object with one changed value each, for each value outside of the metadata.
fn with_one_change<K: Serialize + DeserializeOwned>(object: &K) -> Vec<K> {
    let whole = json_tree::to_value(object).unwrap();
    let mut paths = Vec::new();
    values_of(&whole, String::new(), &mut paths);
    let fixed = ["/apiVersion", "/kind", "/addressType", "/metadata"];
    paths.retain(|path| !fixed.iter().any(|fixed| path.starts_with(fixed)));
    let changed = |path: &String| {
        let mut other = whole.clone();
        let value = other.pointer_mut(path).unwrap();
        *value = match &*value {
            Value::Bool(value) => json!(!value),
            Value::Number(_) => json!(1),
            _ => json!("other"),
        };
        json_tree::from_value(other).unwrap()
    };
    paths.iter().map(changed).collect()
}

/// The paths of all values that are neither objects nor lists.
fn values_of(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                values_of(value, format!("{path}/{name}"), paths);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                values_of(value, format!("{path}/{index}"), paths);
            }
        }
        _ => paths.push(path),
    }
}

/// statefulset.md §10: a change by another program to slices and Endpoints is corrected, whichever field was changed.
#[test]
fn each_changed_value_is_set_right() {
    let pods = vec![pod(0, "ready subdomain"), pod(1, "")];
    let near = json!({ "trafficDistribution": "PreferSameNode" });
    let settled = settled(observed(service(near), pods));
    let subsets = |of: &Observed| of.endpoints.as_ref().unwrap().subsets.clone();
    let written = |changed: &Observed| {
        let plan = plan(changed);
        assert!(!plan.is_idle());
        let mut written = changed.clone();
        apply(&mut written, plan);
        let mut endpoints = endpoints(&written.slices);
        endpoints.sort_by_key(shows);
        (endpoints, subsets(&written))
    };
    let right = (endpoints(&settled.slices), subsets(&settled));
    let slices = with_one_change(&*settled.slices[0]);
    assert!(slices.len() > 20, "{}", slices.len());
    for slice in slices {
        let mut changed = settled.clone();
        changed.slices = vec![Arc::new(slice)];
        assert_eq!(written(&changed), right, "{:?}", changed.slices);
    }
    let all = with_one_change(&**settled.endpoints.as_ref().unwrap());
    assert!(all.len() > 12, "{}", all.len());
    for endpoints in all {
        let mut changed = settled.clone();
        changed.endpoints = Some(Arc::new(endpoints));
        assert_eq!(written(&changed), right, "{:?}", changed.endpoints);
    }
}
