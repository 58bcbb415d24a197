//! Checks every object that a server emits against the schema that the server publishes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use schema_check::SchemaCheck;
use serde_json::Value;

use crate::api::configuration;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Violations that were found, each once: objects of one set have the same.
pub type Violations = Arc<Mutex<BTreeSet<String>>>;

/// Watches all objects of a server in a thread of its own, until the server ends, and notes what the
/// published schema refuses (findings C1). Kinds that are defined later are followed from then on.
pub fn watch(kubeconfig: &Path, found: &Violations) {
    let (kubeconfig, found) = (kubeconfig.to_owned(), found.clone());
    std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let Ok(runtime) = builder.enable_all().build() else {
            return;
        };
        // A server that a test stops while this starts refuses a request: nothing more is to be seen there.
        drop(runtime.block_on(follow(&kubeconfig, &found)));
    });
}

type Events = SelectAll<BoxStream<'static, Result<WatchEvent<Value>, kube::Error>>>;

async fn follow(kubeconfig: &Path, found: &Violations) -> Result<(), kube::Error> {
    let client = Client::try_from(configuration(kubeconfig).await)?;
    let mut definitions = definitions(&client).await?;
    let (mut followed, mut events) = (BTreeSet::new(), Events::new());
    let mut check = renewed(&client, &mut followed, &mut events).await?;
    // A watch that ends, as all do with the server, is not begun again.
    while let Some(event) = events.next().await {
        let Ok(
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object),
        ) = event
        else {
            continue;
        };
        // Before the next object of the kind is looked at.
        if let Some(definition) = definition(&object)
            && definitions.insert(definition)
        {
            check = renewed(&client, &mut followed, &mut events).await?;
        }
        let mut violations = check.violations(&object);
        if !violations.is_empty() {
            // Its definition may have changed since.
            check = SchemaCheck::new(get(&client, "/openapi/v2").await?);
            violations = check.violations(&object);
        }
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.extend(violations);
    }
    Ok(())
}

/// What a definition says, once its kind is served: its uid and generation, and whether it goes.
fn definition(object: &Value) -> Option<String> {
    if object["kind"] != "CustomResourceDefinition" {
        return None;
    }
    let mut conditions = object["status"]["conditions"].as_array()?.iter();
    conditions.find(|one| one["type"] == "Established" && one["status"] == "True")?;
    let metadata = &object["metadata"];
    let going = !metadata["deletionTimestamp"].is_null();
    Some(format!(
        "{} {} {going}",
        metadata["uid"], metadata["generation"]
    ))
}

/// Those that there are.
async fn definitions(client: &Client) -> Result<BTreeSet<String>, kube::Error> {
    let list = get(client, DEFINITIONS).await?;
    let items = list["items"].as_array().into_iter().flatten();
    let named = items.cloned().map(|mut item| {
        item["kind"] = "CustomResourceDefinition".into();
        item
    });
    Ok(named.filter_map(|item| definition(&item)).collect())
}

/// The check for the document of now; what can be watched now and could not before is watched.
async fn renewed(
    client: &Client,
    followed: &mut BTreeSet<String>,
    events: &mut Events,
) -> Result<SchemaCheck, kube::Error> {
    let check = SchemaCheck::new(get(client, "/openapi/v2").await?);
    let watchable = watchable(client).await?;
    followed.retain(|path| watchable.contains(path));
    for path in watchable {
        if followed.insert(path.clone()) {
            let request = Request::get(format!("{path}?watch=true&resourceVersion=0"));
            let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
            events.push(client.request_events::<Value>(request).await?.boxed());
        }
    }
    Ok(check)
}

async fn get(client: &Client, path: &str) -> Result<Value, kube::Error> {
    let request = Request::get(path).header("Accept", "application/json");
    let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request(request).await
}

/// The collections that can be watched, of all groups in all versions.
async fn watchable(client: &Client) -> Result<Vec<String>, kube::Error> {
    let groups = get(client, "/apis").await?;
    let groups = groups["groups"].as_array().cloned().unwrap_or_default();
    let versions = groups.iter().flat_map(|group| {
        let versions = group["versions"].as_array().into_iter().flatten();
        versions.filter_map(|version| Some(format!("/apis/{}", version["groupVersion"].as_str()?)))
    });
    let mut paths = Vec::new();
    for version in std::iter::once("/api/v1".to_owned()).chain(versions) {
        let resources = get(client, &version).await?;
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
