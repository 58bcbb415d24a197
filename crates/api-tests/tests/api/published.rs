//! The server's answers match its OpenAPI documents: every object that a test sees is validated
//! against the document of its group version (findings C1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use api_server::LocalService;
use http::Request;
use http_body_util::{BodyExt, Full};
use json_tree::Value;
use openapi_schema::Schema;
use resource_kinds::{ClusterConfig, KindInfo};
use schema_check::SchemaCheck;
use tower::ServiceExt;

/// Checks for group versions of built-in kinds, which never change; nothing for those without a
/// document.
static BUILT_IN: Mutex<BTreeMap<String, Option<Arc<SchemaCheck>>>> = Mutex::new(BTreeMap::new());

/// Checks an object or a list, as it was sent.
///
/// # Panics
/// Where it is not of the published form.
pub async fn check(admin: &LocalService, object: &Value, asked: &str) {
    let (Some(version), Some(_)) = (object["apiVersion"].as_str(), object["kind"].as_str()) else {
        return;
    };
    let check = match built_in(version) {
        None if version.contains('.') => of_custom_kinds(admin, version).await,
        known => known,
    };
    let found = check.map(|check| check.violations(object));
    let found: BTreeSet<String> = found.into_iter().flatten().collect();
    assert!(
        found.is_empty(),
        "not as published: {asked}: {found:#?}\n{object}"
    );
}

/// The check for a group version of built-in kinds, from what the server's document is made by.
fn built_in(version: &str) -> Option<Arc<SchemaCheck>> {
    let mut known = BUILT_IN.lock().unwrap();
    if let Some(known) = known.get(version) {
        return known.clone();
    }
    let kinds = resource_kinds::all(&ClusterConfig::default());
    let kinds: Vec<KindInfo<'_>> = kinds.iter().map(|kind| kind.info()).collect();
    let bytes = Schema::published().openapi_v3_document(version, &kinds, &[]);
    let document = bytes.map(|bytes| serde_json::from_slice(&bytes).unwrap());
    let check = document.map(|document| Arc::new(SchemaCheck::new(document)));
    known.insert(version.to_owned(), check.clone());
    check
}

/// The check for a group version of custom kinds, as the server has them now.
async fn of_custom_kinds(admin: &LocalService, version: &str) -> Option<Arc<SchemaCheck>> {
    let request = Request::get(format!("/openapi/v3/apis/{version}"));
    let request = request.body(Full::default()).unwrap();
    let response = admin.clone().oneshot(request).await.unwrap();
    if response.status() != 200 {
        return None;
    }
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let document = serde_json::from_slice(&bytes).unwrap();
    Some(Arc::new(SchemaCheck::new(document)))
}
