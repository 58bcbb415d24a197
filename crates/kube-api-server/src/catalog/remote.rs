//! Group versions of extension API servers: their part of the discovery documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use json_tree::{Value, json};

/// One version of a group that an extension API server serves, from its APIService.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RemoteVersion {
    pub(crate) group: String,
    pub(crate) version: String,
    /// `spec.groupPriorityMinimum`: groups with a higher priority are listed first.
    pub(crate) group_priority: i64,
    /// `spec.versionPriority`: versions with a higher priority are listed first.
    pub(crate) version_priority: i64,
    /// The last documents of the server; `None` until it has responded once.
    pub(crate) documents: Option<Arc<RemoteDocuments>>,
    /// Whether the last request to the server succeeded.
    pub(crate) is_fresh: bool,
}

/// The documents of an extension API server about one group version.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RemoteDocuments {
    /// The resources in the form of aggregated discovery.
    pub(crate) resources: Vec<Value>,
    /// The query of the OpenAPI document's URL; `None` if the server has no such document.
    pub(crate) openapi: Option<String>,
}

impl RemoteVersion {
    pub(crate) fn is(&self, group: &str, version: &str) -> bool {
        (self.group.as_str(), self.version.as_str()) == (group, version)
    }
}

/// The documents about a group version, from the bytes of an `APIResourceList` and of the index `/openapi/v3`, if the
/// server has one. `None` if the first is no such list.
pub(crate) fn documents(
    group: &str,
    version: &str,
    list: &[u8],
    index: Option<&[u8]>,
) -> Option<RemoteDocuments> {
    let list: Value = serde_json::from_slice(list).ok()?;
    let index = index.and_then(|index| serde_json::from_slice::<Value>(index).ok());
    Some(RemoteDocuments {
        resources: resources(group, version, &list)?,
        openapi: index.and_then(|index| openapi_query(group, version, &index)),
    })
}

/// Converts an `APIResourceList` to the form of aggregated discovery. Entries without a name or kind, and unknown
/// fields, are left out. `None` if the document is not such a list.
fn resources(group: &str, version: &str, list: &Value) -> Option<Vec<Value>> {
    let entries = list["resources"].as_array()?;
    let mut resources: BTreeMap<&str, Value> = BTreeMap::new();
    for entry in entries {
        let (Some(name), Some(kind)) = (entry["name"].as_str(), entry["kind"].as_str()) else {
            continue;
        };
        let (resource, subresource) = match name.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (name, None),
        };
        if resource.is_empty() || subresource.is_some_and(str::is_empty) {
            continue;
        }
        let text = |field: &str, otherwise: &str| {
            let text = entry[field].as_str().filter(|text| !text.is_empty());
            text.unwrap_or(otherwise).to_owned()
        };
        let response = json!({"group": text("group", group), "version": text("version", version),
            "kind": kind});
        let scope = match entry["namespaced"] == true {
            true => "Namespaced",
            false => "Cluster",
        };
        // A server may list the subresources of a resource that it does not list.
        let listed = resources.entry(resource).or_insert_with(
            || json!({"resource": resource, "scope": scope, "singularResource": "", "verbs": []}),
        );
        let verbs = texts(&entry["verbs"]);
        match subresource {
            Some(subresource) => {
                let part = json!({"subresource": subresource, "responseKind": response,
                    "verbs": verbs});
                match listed["subresources"].as_array_mut() {
                    Some(parts) => parts.push(part),
                    None => listed["subresources"] = json!([part]),
                }
            }
            None => {
                listed["responseKind"] = response;
                listed["scope"] = json!(scope);
                listed["singularResource"] = json!(text("singularName", ""));
                listed["verbs"] = json!(verbs);
                for field in ["shortNames", "categories"] {
                    let words = texts(&entry[field]);
                    if !words.is_empty() {
                        listed[field] = json!(words);
                    }
                }
            }
        }
    }
    Some(resources.into_values().collect())
}

fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).collect()
}

/// The query of the OpenAPI document of a group version, from the index `/openapi/v3` of its server. Only a hash is
/// accepted; `None` if the index has no document.
fn openapi_query(group: &str, version: &str, index: &Value) -> Option<String> {
    let entry = &index["paths"][format!("apis/{group}/{version}").as_str()];
    let url = entry["serverRelativeURL"].as_str()?;
    let hash = url.split_once("?hash=").map_or("", |(_, hash)| hash);
    let is_hash = hash.len() <= 128 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    Some(match is_hash && !hash.is_empty() {
        true => format!("?hash={hash}"),
        false => String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_resources_becomes_aggregated_discovery() {
        let list = json!({"resources": [
            {"name": "flunders/status", "kind": "Flunder", "namespaced": true, "verbs": ["get"]},
            {"name": "flunders", "singularName": "flunder", "kind": "Flunder", "namespaced": true,
                "verbs": ["get", "list"], "shortNames": ["fl"], "categories": ["all"], "junk": 1},
            {"name": "flunders/scale", "kind": "Scale", "group": "autoscaling", "version": "v1",
                "verbs": ["update"]},
            {"name": "pods/requests", "kind": "MetricValueList", "namespaced": true, "verbs": ["get"]},
            {"name": "nodes", "kind": "NodeMetrics", "namespaced": false, "verbs": "get"},
            {"name": "", "kind": "A"}, {"name": "a/", "kind": "A"}, {"name": "b"}, 7,
        ]});
        let of = |kind: &str| json!({"group": "g", "version": "v1", "kind": kind});
        let expected = json!([
            {"resource": "flunders", "scope": "Namespaced", "singularResource": "flunder",
                "verbs": ["get", "list"], "subresources": [
                    {"subresource": "status", "responseKind": of("Flunder"), "verbs": ["get"]},
                    {"subresource": "scale", "verbs": ["update"],
                        "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}],
                "responseKind": of("Flunder"), "shortNames": ["fl"], "categories": ["all"]},
            {"resource": "nodes", "scope": "Cluster", "singularResource": "", "verbs": [],
                "responseKind": of("NodeMetrics")},
            {"resource": "pods", "scope": "Namespaced", "singularResource": "", "verbs": [],
                "subresources": [{"subresource": "requests", "responseKind": of("MetricValueList"),
                    "verbs": ["get"]}]},
        ]);
        assert_eq!(json!(resources("g", "v1", &list).unwrap()), expected);
        for other in [json!({}), json!([]), json!({"resources": "none"})] {
            assert_eq!(resources("g", "v1", &other), None);
        }
    }

    #[test]
    fn the_address_of_an_openapi_document_stays_on_its_path() {
        let query = |url: &str| {
            let index = json!({"paths": {"apis/g/v1": {"serverRelativeURL": url}}});
            openapi_query("g", "v1", &index)
        };
        assert_eq!(
            query("/openapi/v3/apis/g/v1?hash=AB12").as_deref(),
            Some("?hash=AB12")
        );
        assert_eq!(query("/openapi/v3/apis/g/v1").as_deref(), Some(""));
        assert_eq!(query("//evil.example/?hash=a/../b").as_deref(), Some(""));
        assert_eq!(openapi_query("g", "v1", &json!({"paths": {}})), None);
    }
}
