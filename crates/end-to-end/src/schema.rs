//! Checks every object that a server publishes against the schema that the server publishes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use http::Request;
use json_tree::Value;
use kube::Client;
use kube::core::WatchEvent;
use schema_validation::SchemaCheck;

use crate::api::configuration;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Violations, each once, because the objects of one set have equal violations.
pub type Violations = Arc<Mutex<BTreeSet<String>>>;

/// Watches all objects of a server in a separate thread, until the server ends, and records violations of the published
/// schema (findings C1). Kinds that are defined later are watched from then on.
pub fn watch(kubeconfig: &Path, violations: &Violations) {
    let (kubeconfig, violations) = (kubeconfig.to_owned(), violations.clone());
    std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let Ok(runtime) = builder.enable_all().build() else {
            return;
        };
        // A server that a test stops during this start refuses a request; then there is nothing to check any more.
        drop(runtime.block_on(async {
            let client = Client::try_from(configuration(&kubeconfig).await)?;
            follow(&client, &violations).await
        }));
    });
}

type Watch = BoxStream<'static, Result<WatchEvent<Value>, kube::Error>>;
type Events = SelectAll<Watch>;

/// The requests to a server.
trait Server {
    async fn get(&self, path: &str) -> Result<Value, kube::Error>;

    /// All objects of a collection, then its changes.
    async fn watch(&self, path: &str) -> Result<Watch, kube::Error>;
}

impl Server for Client {
    async fn get(&self, path: &str) -> Result<Value, kube::Error> {
        let request = Request::get(path).header("Accept", "application/json");
        let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.request(request).await
    }

    async fn watch(&self, path: &str) -> Result<Watch, kube::Error> {
        let request = Request::get(format!("{path}?watch=true&resourceVersion=0"));
        let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
        Ok(self.request_events::<Value>(request).await?.boxed())
    }
}

async fn follow(server: &impl Server, result: &Violations) -> Result<(), kube::Error> {
    let mut definitions = definitions(server).await?;
    let (mut followed, mut events) = (BTreeSet::new(), Events::new());
    let mut check = renewed(server, &mut followed, &mut events).await?;
    // A watch that ends, as all watches do with the server, is not restarted.
    while let Some(event) = events.next().await {
        let Ok(
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object),
        ) = event
        else {
            continue;
        };
        // The definition is read before the next object of the kind is checked.
        if let Some(definition) = definition(&object)
            && definitions.insert(definition)
        {
            check = renewed(server, &mut followed, &mut events).await?;
        }
        let mut violations = check.violations(&object);
        if !violations.is_empty() {
            // The definition may have changed since the last read.
            check = SchemaCheck::new(server.get("/openapi/v2").await?);
            violations = check.violations(&object);
        }
        let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
        result.extend(violations);
    }
    Ok(())
}

/// The state of a definition whose kind is served: its UID and generation, and whether it is being deleted.
fn definition(object: &Value) -> Option<String> {
    if object["kind"] != "CustomResourceDefinition" {
        return None;
    }
    let mut conditions = object["status"]["conditions"].as_array()?.iter();
    conditions
        .find(|condition| condition["type"] == "Established" && condition["status"] == "True")?;
    let metadata = &object["metadata"];
    let going = !metadata["deletionTimestamp"].is_null();
    Some(format!(
        "{} {} {going}",
        metadata["uid"], metadata["generation"]
    ))
}

/// The existing definitions.
async fn definitions(server: &impl Server) -> Result<BTreeSet<String>, kube::Error> {
    let list = server.get(DEFINITIONS).await?;
    let items = list["items"].as_array().into_iter().flatten();
    let named = items.cloned().map(|mut item| {
        item["kind"] = "CustomResourceDefinition".into();
        item
    });
    Ok(named.filter_map(|item| definition(&item)).collect())
}

/// The check for the present document. New collections that can be watched are watched.
async fn renewed(
    server: &impl Server,
    followed: &mut BTreeSet<String>,
    events: &mut Events,
) -> Result<SchemaCheck, kube::Error> {
    let check = SchemaCheck::new(server.get("/openapi/v2").await?);
    let watchable = watchable(server).await?;
    followed.retain(|path| watchable.contains(path));
    for path in watchable {
        if followed.insert(path.clone()) {
            events.push(server.watch(&path).await?);
        }
    }
    Ok(check)
}

/// The collections that can be watched, of all groups in all versions.
async fn watchable(server: &impl Server) -> Result<Vec<String>, kube::Error> {
    let groups = server.get("/apis").await?;
    let groups = groups["groups"].as_array().cloned().unwrap_or_default();
    let versions = groups.iter().flat_map(|group| {
        let versions = group["versions"].as_array().into_iter().flatten();
        versions.filter_map(|version| Some(format!("/apis/{}", version["groupVersion"].as_str()?)))
    });
    let mut paths = Vec::new();
    for version in std::iter::once("/api/v1".to_owned()).chain(versions) {
        let resources = server.get(&version).await?;
        for resource in resources["resources"].as_array().into_iter().flatten() {
            let verbs = resource["verbs"].as_array().into_iter().flatten();
            if verbs.filter_map(Value::as_str).any(|verb| verb == "watch") {
                let name = resource["name"].as_str().unwrap_or_default();
                paths.push(format!("{version}/{name}"));
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::stream;
    use json_tree::json;

    use super::*;

    const BOATS: &str = "/apis/example.org/v1/boats";

    /// A server to which a kind is added while it is watched. Its objects lack a field that its document requires.
    #[derive(Default)]
    struct Growing {
        has_boats: Cell<bool>,
    }

    impl Server for Growing {
        async fn get(&self, path: &str) -> Result<Value, kube::Error> {
            let watched = |name: &str| json!({"resources": [{"name": name, "verbs": ["watch"]}]});
            let group = |version: &str| json!({"versions": [{"groupVersion": version}]});
            let definitions = group("apiextensions.k8s.io/v1");
            Ok(match (path, self.has_boats.get()) {
                ("/apis", false) => json!({"groups": [definitions]}),
                ("/apis", true) => json!({"groups": [definitions, group("example.org/v1")]}),
                ("/apis/apiextensions.k8s.io/v1", _) => watched("customresourcedefinitions"),
                ("/apis/example.org/v1", true) => watched("boats"),
                ("/openapi/v2", true) => json!({"definitions": {"boat": {
                    "type": "object", "required": ["sails"],
                    "x-kubernetes-group-version-kind":
                        [{"group": "example.org", "version": "v1", "kind": "Boat"}]}}}),
                _ => json!({}),
            })
        }

        async fn watch(&self, path: &str) -> Result<Watch, kube::Error> {
            let object = match path {
                // The kind is served from the event of its definition on.
                DEFINITIONS => {
                    self.has_boats.set(true);
                    json!({"kind": "CustomResourceDefinition",
                        "metadata": {"uid": "1", "generation": 1},
                        "status": {"conditions": [{"type": "Established", "status": "True"}]}})
                }
                BOATS => json!({"apiVersion": "example.org/v1", "kind": "Boat"}),
                _ => return Ok(stream::empty().boxed()),
            };
            Ok(stream::iter([Ok(WatchEvent::Added(object))]).boxed())
        }
    }

    /// findings C1: objects of a kind that is defined later are checked with the document of that time.
    #[tokio::test]
    async fn kinds_that_are_defined_later_are_followed() {
        let (server, violations) = (Growing::default(), Violations::default());
        follow(&server, &violations).await.unwrap();
        let violations = violations.lock().unwrap();
        assert_eq!(violations.len(), 1, "{violations:?}");
        assert!(
            violations
                .iter()
                .all(|violation| violation.contains("sails")),
            "{violations:?}"
        );
    }

    /// A definition counts once its kind is served, and again after a change.
    #[test]
    fn definitions_are_told_apart_by_what_they_serve() {
        let of = |generation: u32, status: &str| {
            definition(&json!({"kind": "CustomResourceDefinition",
                "metadata": {"uid": "1", "generation": generation},
                "status": {"conditions": [{"type": "Established", "status": status}]}}))
        };
        assert_eq!(of(1, "False"), None);
        assert!(of(1, "True").is_some());
        assert_ne!(of(1, "True"), of(2, "True"));
    }
}
