//! Objects that tenants store.

use end_to_end::wait_for;
use http::Method;
use serde_json::json;

use super::{Scene, large_map};

/// A tenant stores the maximum of its namespace, and reads all objects.
// findings-2 S44
#[test]
fn a_full_namespace() {
    let mut scene = Scene::with_tenants(1);
    let path = scene.tenants[0].path("configmaps");
    let mut stored = 0;
    loop {
        let map = large_map(stored, 1_000_000);
        match scene.api.request(Method::POST, &path, Some(&map)) {
            Ok(_) => stored += 1,
            Err(kube::Error::Api(status)) => {
                assert_eq!(status.code, 403, "{}", status.message);
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    let size = scene.runtime.block_on(async {
        let mut connection = scene.tenants[0].connect().await;
        let request = connection.get(&path, "application/json");
        connection.code(request).await
    });
    assert_eq!(size, Some(200));
    scene.wait_until_stable();
    scene.assert_withstood("a full namespace");
}

/// A tenant writes one object again and again: twice as much as the memory may grow.
// findings-2 S44
#[test]
fn one_object_again_and_again() {
    let mut scene = Scene::with_tenants(1);
    let path = scene.tenants[0].path("configmaps");
    scene.api.create(&path, &large_map(0, 1_000_000));
    for round in 0..600 {
        let mut map = large_map(0, 1_000_000);
        map["data"]["round"] = json!(round.to_string());
        wait_for("the update", 60, || {
            scene
                .api
                .request(Method::PUT, &format!("{path}/large-0"), Some(&map))
        });
    }
    scene.wait_until_stable();
    scene.assert_withstood("one object again and again");
}
