//! Responses that clients request and do not read.

use tokio::task::JoinSet;

use super::{Scene, Tenant};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Each tenant sends each of these requests a hundred times on a connection, and reads nothing.
fn request_and_read_nothing(attack: &str, requests: &[(&str, &str)]) {
    let mut scene = Scene::with_tenants(12);
    let maps = scene.store_large_maps();
    let mut open = JoinSet::new();
    for (path, accept) in requests {
        let path = path.replace("{configmaps}", &maps);
        scene.on_each_stream(1, Tenant::connect_deaf, |_, connection| {
            let request = connection.get(&path, accept);
            connection.hold_open(request, (), &mut open);
        });
    }
    scene.wait_until_stable();
    scene.assert_withstood(attack);
}

// findings-2 S38
#[test]
fn documents() {
    let requests = [("/openapi/v2", JSON), ("/openapi/v3/api/v1", JSON)];
    request_and_read_nothing("unread documents", &requests);
}

// findings-2 S38
#[test]
fn watches() {
    let watch = "{configmaps}?watch=true";
    request_and_read_nothing("unread watches", &[(watch, JSON), (watch, PROTOBUF)]);
}

// findings-2 S38
#[test]
fn lists() {
    let requests = [("{configmaps}", JSON), ("{configmaps}", "application/yaml")];
    request_and_read_nothing("unread lists", &requests);
}
