//! A client library of another project, over the server as a service of this process.

use futures::TryStreamExt;
use json_tree::json;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api as Objects, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{Config, Event, watcher};
use kube_api_server::UserInfo;

use crate::harness::Api;

#[tokio::test]
async fn kube_creates_lists_watches_patches_and_deletes() {
    let api = Api::new().await;
    let local = api
        .server
        .local(UserInfo::new("controller", ["system:masters"]));
    let client = kube::Client::new(local, "default");
    assert_eq!(client.apiserver_version().await.unwrap().minor, "36");
    let maps: Objects<ConfigMap> = Objects::default_namespaced(client.clone());
    let map: ConfigMap =
        json_tree::from_value(json!({"metadata": {"name": "a"}, "data": {"x": "1"}})).unwrap();
    maps.create(&PostParams::default(), &map).await.unwrap();
    let refused = maps.create(&PostParams::default(), &map).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.is_already_exists()));
    assert!(maps.get_opt("nope").await.unwrap().is_none());
    let listed = maps.list(&ListParams::default().limit(10)).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    for config in [Config::default(), Config::default().streaming_lists()] {
        let mut events = Box::pin(watcher(maps.clone(), config));
        assert!(matches!(
            events.try_next().await.unwrap(),
            Some(Event::Init)
        ));
        assert!(matches!(
            events.try_next().await.unwrap(),
            Some(Event::InitApply(_))
        ));
        assert!(matches!(
            events.try_next().await.unwrap(),
            Some(Event::InitDone)
        ));
        let change = Patch::Strategic(json!({"data": {"y": "2"}}));
        maps.patch("a", &PatchParams::default(), &change)
            .await
            .unwrap();
        let change = Patch::Merge(json!({"data": {"y": null}}));
        maps.patch("a", &PatchParams::default(), &change)
            .await
            .unwrap();
        for keys in [2, 1] {
            match events.try_next().await.unwrap() {
                Some(Event::Apply(map)) => assert_eq!(map.data.unwrap().len(), keys),
                other => panic!("{other:?}"),
            }
        }
    }
    let deleted = maps.delete("a", &DeleteParams::background()).await.unwrap();
    assert!(deleted.right().is_some_and(|status| status.is_success()));
    let spaces: Objects<Namespace> = Objects::all(client);
    assert_eq!(
        spaces
            .list_metadata(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        4
    );
}
