//! The shared parts (caches, recorder) against a real server.

use controller_framework::{Cache, ObjectChange, Recorder, WatchConfig};
use json_tree::json;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube_api_client::{Api, DeleteParams, PostParams};
use kube_api_server::UserInfo;
use process_telemetry::Health;
use process_telemetry::health::Kind;

use crate::support::{Cluster, eventually, wait_for};

/// statefulset.md 7.4: a repeated event increments a count and creates no object; another message is another event.
#[tokio::test]
async fn repeated_events_are_counted() {
    let cluster = Cluster::without_controllers().await;
    let recorder = Recorder::spawn(cluster.client.clone(), "tester", cluster.shutdown.clone());
    let map: ConfigMap = cluster.create(json!({ "metadata": { "name": "m" } })).await;
    for _ in 0..3 {
        recorder.normal(&map, "Happened", "something");
    }
    recorder.warning(&map, "Failed", "something else");
    // Events of objects without a namespace are in `default`.
    let node: Node = json_tree::from_value(json!({ "metadata": { "name": "n" } })).unwrap();
    recorder.normal(&node, "Started", "a node");
    wait_for::<Event>(
        &cluster,
        "Failed 1 m, Happened 3 m, Started 1 n",
        |events| {
            let mut printed: Vec<String> = events
                .iter()
                .map(|event| {
                    assert_eq!(event.reporting_component.as_deref(), Some("tester"));
                    let reason = event.reason.clone().unwrap();
                    let name = event.involved_object.name.clone().unwrap();
                    format!("{reason} {} {name}", event.count.unwrap())
                })
                .collect();
            printed.sort();
            printed.join(", ")
        },
    )
    .await;
    assert_eq!(recorder.dropped(), 0);
}

#[tokio::test]
async fn a_cache_follows_the_server() {
    let cluster = Cluster::without_controllers().await;
    let first: ConfigMap = cluster.create(json!({ "metadata": { "name": "a" } })).await;
    let api: Api<ConfigMap> = cluster.api();
    let shutdown = cluster.shutdown.child_token();
    let cache = Cache::spawn(api.clone(), WatchConfig::default(), shutdown.clone());
    let mut changes = cache.subscribe();
    assert!(cache.wait_synced().await);
    assert!(cache.get("default", "a").is_some());
    assert!(matches!(
        changes.next().await,
        Some(ObjectChange::Applied(_, None))
    ));
    let changed = ConfigMap {
        data: Some([("k".to_owned(), "v".to_owned())].into()),
        ..first
    };
    api.replace("a", &PostParams::default(), &changed)
        .await
        .unwrap();
    let Some(ObjectChange::Applied(new, Some(old))) = changes.next().await else {
        panic!("no change")
    };
    assert_ne!(new.data, old.data);
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(matches!(
        changes.next().await,
        Some(ObjectChange::Deleted(_))
    ));
    assert!(cache.is_empty());
    shutdown.cancel();
    assert!(changes.next().await.is_none());
}

/// findings A3: a watch that the server refuses is reported until the server accepts it.
#[tokio::test]
async fn a_watch_that_fails_is_named() {
    let cluster = Cluster::without_controllers().await;
    let nobody = cluster.client_of(UserInfo::new("nobody", ["system:authenticated"]));
    let health = Health::default();
    let component = health.component("tester", cluster.shutdown.clone());
    let cache: Cache<ConfigMap> = Cache::spawn_all(&nobody, &component);
    eventually(async || !health.failing(Kind::Watch).is_empty()).await;
    let failing = health.failing(Kind::Watch).remove(0);
    assert!(failing.starts_with("tester: configmaps ("), "{failing}");
    let binding = json!({
        "metadata": { "name": "nobody-views" },
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view",
        },
        "subjects": [{
            "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nobody",
        }],
    });
    let bindings: Api<ClusterRoleBinding> = Api::all(cluster.client.clone());
    let binding = json_tree::from_value(binding).unwrap();
    bindings
        .create(&PostParams::default(), &binding)
        .await
        .unwrap();
    assert!(cache.wait_synced().await);
    assert!(health.failing(Kind::Watch).is_empty());
}
