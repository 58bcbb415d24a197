use std::convert::Infallible;
use std::sync::Mutex;

use futures::TryStreamExt;
use http::Response;
use http_body_util::BodyExt;
use json_tree::{Value, json};
use k8s_openapi::api::core::v1::{Binding, ConfigMap, Namespace, Node};

use super::*;
use crate::transport::Body;

type Requests = Arc<Mutex<Vec<String>>>;

/// A server that records requests. Its object `absent` does not exist.
fn server() -> (Client, Requests) {
    let requests = Requests::default();
    let recorded = requests.clone();
    let respond = move |request: Request<Body>| {
        let recorded = recorded.clone();
        async move {
            let (head, body) = request.into_parts();
            let header = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap());
            let kind = [header("accept"), header("content-type")];
            let kind = kind.into_iter().flatten().collect::<Vec<_>>().join(" ");
            let body = body.collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            let line = format!("{} {} [{kind}] {body}", head.method, head.uri);
            recorded.lock().unwrap().push(line);
            let (code, body) = match head.uri.path().ends_with("absent") {
                true => (404, json!({"reason": "NotFound", "message": "not found"})),
                false => (200, json!({"metadata": {"name": "a"}, "items": []})),
            };
            let response = Response::builder().status(code).body(body.to_string());
            Ok::<_, Infallible>(response.unwrap())
        }
    };
    (Client::new(tower::service_fn(respond), "default"), requests)
}

#[tokio::test]
async fn requests_are_those_of_the_kubernetes_api() {
    let (client, requests) = server();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let metas: Api<PartialObjectMeta<Namespace>> = Api::all(client);
    let json = "[application/json]";
    let metadata = "application/json;as=PartialObjectMetadata";
    let (post, patch) = (PostParams::default(), PatchParams::default());
    let map = ConfigMap::default();
    let empty = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#;
    let note = || requests.lock().unwrap().pop().unwrap();
    let root = "/api/v1/namespaces/default/configmaps";

    assert_eq!(maps.get("a").await.unwrap().metadata.name.unwrap(), "a");
    assert_eq!(note(), format!("GET {root}/a [] "));
    assert!(maps.get_opt("absent").await.unwrap().is_none());
    assert!(maps.get_metadata_opt("absent").await.unwrap().is_none());
    assert!(note().contains(&format!("[{metadata};g=meta.k8s.io;v=v1 application/json]")));
    maps.create(&post, &map).await.unwrap();
    assert_eq!(note(), format!("POST {root}? {json} {empty}"));
    maps.replace("a", &post, &map).await.unwrap();
    assert_eq!(note(), format!("PUT {root}/a? {json} {empty}"));
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let deleted = format!("[{metadata};g=meta.k8s.io;v=v1 application/json]");
    assert_eq!(note(), format!("DELETE {root}/a {deleted} {{}}"));
    let deleted = format!("[{metadata}List;g=meta.k8s.io;v=v1 application/json]");
    let odd = ListParams::default().labels("odd=1").limit(2);
    let background = DeleteParams::background();
    let next = maps.delete_page(&background, odd).await.unwrap();
    assert_eq!(next, None);
    let policy = r#"{"propagationPolicy":"Background"}"#;
    assert_eq!(
        note(),
        format!("DELETE {root}?labelSelector=odd%3D1&limit=2 {deleted} {policy}")
    );
    let change = Patch::Merge(json!({"status": 1}));
    nodes.patch_status("a", &patch, &change).await.unwrap();
    let merge = "[application/json application/merge-patch+json]";
    assert_eq!(
        note(),
        format!("PATCH /api/v1/nodes/a/status? {merge} {{\"status\":1}}")
    );
    let listed = metas.list(&ListParams::default().limit(3)).await.unwrap();
    assert_eq!(listed.items.len(), 0);
    let expected = format!("GET /api/v1/namespaces?limit=3 [{metadata}List;g");
    assert!(note().starts_with(&expected));
    let binding = Binding::default();
    let bound = pods.create_subresource::<Value>("binding", "p", &post, &binding);
    bound.await.unwrap();
    assert!(note().starts_with("POST /api/v1/namespaces/shop/pods/p/binding? "));
    let log = LogParams {
        tail_lines: Some(1),
        ..LogParams::default()
    };
    pods.logs("p", &log).await.unwrap();
    assert_eq!(
        note(),
        "GET /api/v1/namespaces/shop/pods/p/log?tailLines=1 [] "
    );
    assert!(matches!(maps.get("").await, Err(Error::NoName)));
}

#[tokio::test]
async fn a_list_is_read_and_deleted_page_by_page() {
    let respond = |request: Request<Body>| async move {
        let page = |names: &[&str], next: &str| {
            let items = names.iter().map(|name| json!({"metadata": {"name": name}}));
            json!({"metadata": {"continue": next}, "items": items.collect::<Vec<_>>()})
        };
        let page = match request.uri().query().unwrap_or_default() {
            "limit=2" => page(&["a", "b"], "after-b"),
            "limit=2&continue=after-b" => page(&["c"], ""),
            other => panic!("{other}"),
        };
        Ok::<_, Infallible>(Response::new(page.to_string()))
    };
    let client = Client::new(tower::service_fn(respond), "default");
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let pages: Vec<Vec<ConfigMap>> = maps.pages(2).try_collect().await.unwrap();
    let name = |map: &ConfigMap| map.metadata.name.clone().unwrap();
    let names = pages.iter().map(|page| page.iter().map(name).collect());
    assert_eq!(names.collect::<Vec<Vec<_>>>(), [vec!["a", "b"], vec!["c"]]);
    let (how, first) = (DeleteParams::background(), ListParams::default().limit(2));
    let second = maps.delete_page(&how, first.clone()).await.unwrap();
    assert_eq!(second, Some(first.continue_token("after-b")));
    let third = maps.delete_page(&how, second.unwrap()).await.unwrap();
    assert_eq!(third, None);
}
