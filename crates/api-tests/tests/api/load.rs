//! Large requests and many requests do not delay other requests.

use json_tree::{Value, json};
use kube_api_server::Limits;
use mvcc_store::Store;
use mvcc_store::embedded::{EmbeddedStore, Limits as StoreLimits};

use crate::harness::{Api, CONFIG_MAPS, PODS, config_map};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn pod(env: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i", "env": env}]}})
}

fn variables(count: usize, value: &str) -> Vec<Value> {
    let one = |number| json!({"name": format!("V{number}"), "value": value});
    (0..count).map(one).collect()
}

/// findings S13: the work for a large patch does not run on the threads that serve all requests (the harness checks
/// this), and is proportional to its size.
#[tokio::test(flavor = "multi_thread")]
async fn large_patches_are_merged_beside_the_threads_that_answer() {
    let api = Api::new().await;
    api.with_account().await;
    api.create(PODS, pod(variables(6_000, "a"))).await;
    let path = format!("{PODS}/p");
    let labels: json_tree::Map<String, Value> = (0..6_000)
        .map(|number| (format!("l{number}"), json!("x")))
        .collect();
    let labelled = json!({"metadata": {"annotations": labels}});
    let (code, response) = api.patch(&path, "strategic", labelled).await;
    assert_eq!(code, 200, "{response:.300}");
    let refused = json!({"spec": pod(variables(6_000, "b"))["spec"]});
    let (code, _) = api.patch(&path, "strategic", refused).await;
    assert_eq!(code, 422, "a running pod's environment stays");
    for manager in ["one", "two"] {
        let path = format!("{PODS}/q?fieldManager={manager}");
        let mut config = pod(variables(6_000, "a"));
        config["metadata"]["name"] = json!("q");
        let (code, response) = api.patch(&path, "apply", config).await;
        assert!(code < 300, "{response:.300}");
    }
}

/// findings S13: server-side apply of many entries, for every keyed list whose entries are short.
#[tokio::test(flavor = "multi_thread")]
async fn applying_thousands_of_entries_costs_no_more_than_they_do() {
    let api = Api::new().await;
    let data: json_tree::Map<String, Value> = (0..20_000)
        .map(|number| (format!("k{number}"), json!("x")))
        .collect();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
        "data": data});
    let path = format!("{CONFIG_MAPS}/a?fieldManager=m");
    for _ in 0..2 {
        let (code, response) = api.patch(&path, "apply", map.clone()).await;
        assert!(code < 300, "{response:.300}");
    }
    let ports: Vec<Value> = (1..10_000)
        .map(|port| json!({"name": format!("p{port}"), "port": port}))
        .collect();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": ports}});
    let path = format!("{SERVICES}/s?fieldManager=m");
    for _ in 0..2 {
        let (code, response) = api.patch(&path, "apply", service.clone()).await;
        assert!(code < 300, "{response:.300}");
    }
}

/// findings S14: YAML with too many values is refused, and allowed YAML is parsed on separate threads.
#[tokio::test(flavor = "multi_thread")]
async fn yaml_is_read_beside_the_threads_that_answer_and_within_a_budget() {
    let api = Api::new().await;
    let yaml = [("content-type", "application/yaml")];
    let review = |lines: usize| {
        let extra = "    - a\n".repeat(lines);
        format!(
            "kind: SelfSubjectAccessReview\nspec:\n  nonResourceAttributes:\n    path: /\n  x:\n{extra}"
        )
    };
    let fine = api.raw("POST", REVIEWS, &yaml, review(20_000)).await;
    assert_eq!(fine.code, 201, "{:.300}", fine.text());
    let refused = api.raw("POST", REVIEWS, &yaml, review(100_000)).await;
    assert_eq!(refused.code, 400);
    assert!(refused.text().contains("more than 50000 values"));
}

/// findings S14: the concurrent bodies of one user have a limit; above the limit, the client gets a retry delay.
#[tokio::test]
async fn bodies_count_into_the_share_of_their_sender() {
    let limits = Limits {
        body_bytes_per_user_max: 4096,
        body_bytes_guaranteed: 0,
        ..Limits::default()
    };
    let served = crate::network::Served::over(EmbeddedStore::in_memory(), limits).await;
    let user = served.authority.client("u", &["g"]).unwrap();
    let post = |kind: &str, body: &str| {
        format!(
            "POST {REVIEWS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let body = format!("{{\"spec\":{{}},\"x\":\"{}\"}}", "y".repeat(1000));
    let send = async |kind: &str| {
        let text = post(kind, &body);
        let response = served.talk(Some(&user), &text).await;
        response[9..12].to_owned()
    };
    assert_ne!(send("application/json").await, "429");
    // In YAML, the bytes count eight times.
    assert_eq!(send("application/yaml").await, "429");
    assert_ne!(send("application/json").await, "429", "it was given back");
    let text = post("application/yaml", &body);
    let admin = served.talk(Some(&served.admin()), &text).await;
    assert!(!admin.contains(" 429 "), "{admin}");
}

/// A page whose selector matches nothing does not scan the collection for each object.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_what_there_is_not_is_read_in_large_steps() {
    let api = Api::new().await;
    for number in 0..1_100 {
        let mut map = config_map(&format!("m{number:04}"));
        map["metadata"]["labels"] = json!({"odd": (number % 2 == 1).to_string()});
        api.create(CONFIG_MAPS, map).await;
    }
    let (code, none) = api
        .get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=a=b"))
        .await;
    assert_eq!((code, &none["items"]), (200, &json!([])));
    let mut names = Vec::new();
    let mut next = String::new();
    loop {
        let path = format!("{CONFIG_MAPS}?limit=7&labelSelector=odd=true&continue={next}");
        let (_, page) = api.get(&path).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 7);
        names.extend(items.iter().map(|item| item["metadata"]["name"].clone()));
        match page["metadata"]["continue"].as_str() {
            Some(more) => next = more.to_owned(),
            None => break,
        }
    }
    let expected: Vec<Value> = (0..550)
        .map(|n| json!(format!("m{:04}", 2 * n + 1)))
        .collect();
    assert_eq!(names, expected);
}

/// findings S18: the managed fields of many managers cannot grow an object without limit.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_grows_up_to_a_bound() {
    let api = Api::new().await;
    let data: json_tree::Map<String, Value> = (0..6_000)
        .map(|number| (format!("a-key-that-is-long-{number}"), json!("x")))
        .collect();
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
        "data": data});
    let mut refused = None;
    for manager in 0..30 {
        let path = format!("{CONFIG_MAPS}/a?fieldManager=m{manager}");
        let (code, response) = api.patch(&path, "apply", map.clone()).await;
        if code >= 300 {
            refused = Some(response);
            break;
        }
    }
    let refused = refused.expect("refused at some time");
    assert_eq!(
        (&refused["code"], &refused["reason"]),
        (&json!(413), &json!("RequestEntityTooLarge"))
    );
    let path = format!("{CONFIG_MAPS}/a");
    let stored = api.raw("GET", &path, &[], "").await;
    assert!(stored.bytes.len() < 1536 * 1024 + 100);
    assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
}

/// findings S26, R13: the writer, the health check and an event report a full store; deletions free space, and a
/// start is possible.
#[tokio::test]
async fn a_full_store_says_so_and_lets_things_be_deleted() {
    // Only the system's namespaces may use the whole store.
    const CONFIG_MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";
    let quota = 3 << 20;
    let store = EmbeddedStore::in_memory_with(&StoreLimits {
        live_bytes_max: quota,
        ..StoreLimits::default()
    });
    let api = Api::over(store.clone(), Limits::default(), None).await;
    api.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}}))
        .await;
    assert_eq!(api.raw("GET", "/readyz", &[], "").await.code, 200);
    let mut count = 0;
    let refused = loop {
        let mut map = config_map(&format!("m{count}"));
        map["data"]["a"] = json!("x".repeat(200_000));
        let (code, response) = api.send("POST", CONFIG_MAPS, map).await;
        if code != 201 {
            break response;
        }
        count += 1;
    };
    assert_eq!(refused["code"], 507);
    let text = refused["message"].as_str().unwrap();
    assert!(text.contains("the quota of the store is used up"), "{text}");
    // The metric reports the full store after the first refusal.
    let metrics = api.raw("GET", "/metrics", &[], "").await.text();
    assert!(metrics.contains("\nmainstay_store_full 1\n"), "{metrics}");
    // Small objects still fit, until the store is completely full.
    while api
        .send(
            "POST",
            CONFIG_MAPS,
            json!({"metadata": {"generateName": "s"}}),
        )
        .await
        .0
        == 201
    {}
    let full = store.occupancy();
    // The event about the full store may be there already: events may exceed the quota by a 32nd.
    assert!(full.live_bytes <= quota + quota / 32, "{full:?}");
    assert!(full.full.is_some());
    // A start succeeds on a full store.
    let again = Api::over(store.clone(), Limits::default(), None).await;
    assert_eq!(again.get("/api/v1/nodes/n1").await.0, 200);
    // Only one check fails, because the store itself works.
    for (check, code) in [("store-room", 500), ("store", 200)] {
        let path = format!("/readyz/{check}");
        assert_eq!(api.raw("GET", &path, &[], "").await.code, code, "{check}");
    }
    let events = "/api/v1/namespaces/default/events?fieldSelector=reason=StoreFull";
    for round in 0.. {
        if again.get(events).await.1["items"] != json!([]) {
            break;
        }
        assert!(round < 6_000, "no event: {:?}", store.occupancy());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(api.raw("GET", "/livez", &[], "").await.code, 200);
    let metrics = api.raw("GET", "/metrics", &[], "").await.text();
    assert!(metrics.contains(&format!("mainstay_store_quota_bytes {quota}\n")));
    for number in 0..count {
        let path = format!("{CONFIG_MAPS}/m{number}");
        assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
    }
    api.create(CONFIG_MAPS, config_map("new")).await;
    assert_eq!(api.raw("GET", "/readyz", &[], "").await.code, 200);
}
