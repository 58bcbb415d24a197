//! The server's responses match its OpenAPI documents: every object that a test receives is validated against the
//! document of its group version (findings C1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use http::Request;
use http_body_util::{BodyExt, Full};
use json_tree::Value;
use kube_api_server::LocalService;
use openapi_documents::Schema;
use resource_kinds::{ClusterConfig, KindInfo};
use schema_validation::SchemaCheck;
use tower::ServiceExt;

/// Checks for the group versions of built-in kinds, which never change; `None` for a group version without a
/// document.
static BUILT_IN: Mutex<BTreeMap<String, Option<Arc<SchemaCheck>>>> = Mutex::new(BTreeMap::new());

/// Checks an object or a list, as the server sent it.
///
/// # Panics
/// The object does not match the published schema.
pub async fn check(admin: &LocalService, object: &Value, request: &str) {
    let (Some(version), Some(_)) = (object["apiVersion"].as_str(), object["kind"].as_str()) else {
        return;
    };
    let check = match built_in(version) {
        None if version.contains('.') => of_custom_kinds(admin, version).await,
        check => check,
    };
    let violations = check.map(|check| check.violations(object));
    let violations: BTreeSet<String> = violations.into_iter().flatten().collect();
    assert!(
        violations.is_empty(),
        "not as published: {request}: {violations:#?}\n{object}"
    );
}

/// The check for a group version of built-in kinds, from the generator of the server's document.
fn built_in(version: &str) -> Option<Arc<SchemaCheck>> {
    let mut checks = BUILT_IN.lock().unwrap();
    if let Some(check) = checks.get(version) {
        return check.clone();
    }
    let kinds = resource_kinds::all(&ClusterConfig::default());
    let kinds: Vec<KindInfo<'_>> = kinds.iter().map(|kind| kind.info()).collect();
    let bytes = Schema::published().openapi_v3_document(version, &kinds, &[]);
    let document = bytes.map(|bytes| serde_json::from_slice(&bytes).unwrap());
    let check = document.map(|document| Arc::new(SchemaCheck::new(document)));
    checks.insert(version.to_owned(), check.clone());
    check
}

/// The check for a group version of custom kinds, from the present document of the server.
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
