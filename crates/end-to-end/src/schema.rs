//! Checks every object that a server emits against the schema that the server publishes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use futures::stream::SelectAll;
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use schema_check::SchemaCheck;
use serde_json::Value;

use crate::api::configuration;

/// Violations that were found, each once: objects of one set have the same.
pub type Violations = Arc<Mutex<BTreeSet<String>>>;

/// Watches all objects of a server in a thread of its own, until the server ends, and notes what the
/// published schema refuses (findings C1). Kinds that are defined later are not followed.
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

async fn follow(kubeconfig: &Path, found: &Violations) -> Result<(), kube::Error> {
    let client = Client::try_from(configuration(kubeconfig).await)?;
    let check = SchemaCheck::new(get(&client, "/openapi/v2").await?);
    let mut events = SelectAll::new();
    for path in watchable(&client).await? {
        let path = format!("{path}?watch=true&resourceVersion=0");
        let request = Request::get(path)
            .body(Vec::new())
            .map_err(kube::Error::HttpError)?;
        events.push(client.request_events::<Value>(request).await?.boxed());
    }
    // A watch that ends, as all do with the server, is not begun again.
    while let Some(event) = events.next().await {
        let Ok(
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object),
        ) = event
        else {
            continue;
        };
        let violations = check.violations(&object);
        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
        found.extend(violations);
    }
    Ok(())
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
