//! FlowSchemas and priority levels: the default objects, and their effect on requests.

use std::time::Duration;

use certificates::Identity;
use json_tree::{Value, json};
use kube_api_server::Limits;
use mvcc_store::embedded::EmbeddedStore;
use mvcc_store::{Operation, Range, Store, Txn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::Api;
use crate::network::{Served, get};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const TABLE: [(&str, &str); 1] = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..6000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

/// A level that does not borrow seats.
fn level(name: &str, shares: i64, response: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "borrowingLimitPercent": 0,
        "limitResponse": response}}})
}

/// A schema for all requests of a user.
fn schema(name: &str, level: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": 50,
        "rules": [{
            "subjects": [{"kind": "User", "user": {"name": user}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
                "clusterScope": true, "namespaces": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }],
    }})
}

fn client(served: &Served, name: &str) -> Identity {
    served.authority.client(name, &[]).unwrap()
}

async fn send(served: &Served, who: &Identity, path: &str, headers: &str) -> String {
    served
        .talk(Some(who), &get(path, headers))
        .await
        .to_lowercase()
}

fn header<'a>(response: &'a str, name: &str) -> Option<&'a str> {
    let start = format!("{name}: ");
    response.lines().find_map(|line| line.strip_prefix(&start))
}

/// Whether `/metrics` contains a line.
async fn reports(api: &Api, line: &str) -> bool {
    let text = api.raw("GET", "/metrics", &[], "").await.text();
    text.lines().any(|candidate| candidate == line)
}

/// findings C51
#[tokio::test]
async fn a_fresh_cluster_has_the_default_flows() {
    let api = Api::new().await;
    let list = api.raw("GET", SCHEMAS, &TABLE, "").await.json();
    let rows = list["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 11);
    // In matching order, as in the output of `kubectl get`.
    let order: Vec<(i64, &str)> = rows
        .iter()
        .map(|row| {
            (
                row["cells"][2].as_i64().unwrap(),
                row["cells"][0].as_str().unwrap(),
            )
        })
        .collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order[0], (1, "exempt"));
    let row = |name: &str| {
        let mut matching = rows.iter().filter(|row| row["cells"][0] == name);
        matching.next().unwrap()["cells"].clone()
    };
    let cells = row("service-accounts");
    assert_eq!(
        cells.as_array().unwrap()[1..4],
        [json!("workload-low"), json!(9000), json!("ByUser")]
    );
    assert!(
        rows.iter().all(|row| row["cells"][5] == "False"),
        "{rows:?}"
    );
    let list = api.raw("GET", LEVELS, &TABLE, "").await.json();
    let rows = list["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 8);
    let limited = rows.iter().find(|row| row["cells"][0] == "leader-election");
    let expected = json!(["leader-election", "Limited", 10, 16, 4, 50]);
    assert_eq!(
        limited.unwrap()["cells"].as_array().unwrap()[..6],
        expected.as_array().unwrap()[..]
    );
}

/// findings C53: the headers of each response contain the UIDs of the schema and the level.
#[tokio::test]
async fn answers_name_the_flow_of_their_request() {
    let served = Served::new(Limits::default()).await;
    let uid = async |path: &str, name: &str| {
        let (_, object) = served.api.get(&format!("{path}/{name}")).await;
        object["metadata"]["uid"].as_str().unwrap().to_owned()
    };
    let ann = client(&served, "ann");
    for (who, schema, level) in [
        (&ann, "global-default", "global-default"),
        (&served.admin(), "exempt", "exempt"),
    ] {
        // findings-2 C35: the version is public, but the request of an authenticated user still has a flow.
        for path in ["/api", "/version"] {
            let response = send(&served, who, path, "").await;
            assert!(response.starts_with("http/1.1 200"), "{response}");
            let actual = header(&response, "x-kubernetes-pf-flowschema-uid");
            assert_eq!(actual, Some(&*uid(SCHEMAS, schema).await), "{path}");
            let actual = header(&response, "x-kubernetes-pf-prioritylevel-uid");
            assert_eq!(actual, Some(&*uid(LEVELS, level).await), "{path}");
        }
    }
    let acting = "Impersonate-User: ann\r\n";
    let response = send(&served, &served.admin(), "/version", acting).await;
    let actual = header(&response, "x-kubernetes-pf-flowschema-uid");
    assert_eq!(actual, Some(&*uid(SCHEMAS, "global-default").await));
    let unknown = served.talk(None, &get("/version", "")).await.to_lowercase();
    assert!(unknown.starts_with("http/1.1 200"), "{unknown}");
}

/// findings C55: a level without seats that rejects the requests of one user only.
#[tokio::test]
async fn a_schema_turns_a_user_away() {
    let served = Served::new(Limits::default()).await;
    let (greedy, modest) = (client(&served, "greedy"), client(&served, "modest"));
    assert!(
        send(&served, &greedy, "/api", "")
            .await
            .starts_with("http/1.1 200")
    );
    served
        .api
        .create(LEVELS, level("none", 0, json!({"type": "Reject"})))
        .await;
    let created = served
        .api
        .create(SCHEMAS, schema("greedy", "none", "greedy"))
        .await;
    // The schema is in force when the response to its write arrives.
    let response = send(&served, &greedy, "/api", "").await;
    assert!(response.starts_with("http/1.1 429"), "{response}");
    assert_eq!(header(&response, "retry-after"), Some("1"));
    let uid = header(&response, "x-kubernetes-pf-flowschema-uid");
    assert_eq!(uid, created["metadata"]["uid"].as_str());
    assert!(response.contains("too many requests, please try again later."));
    assert!(
        send(&served, &modest, "/api", "")
            .await
            .starts_with("http/1.1 200")
    );
    assert!(
        send(&served, &served.admin(), "/api", "")
            .await
            .starts_with("http/1.1 200")
    );
    // The impersonated user counts. Health checks have no flow.
    let acting = send(
        &served,
        &served.admin(),
        "/api",
        "Impersonate-User: greedy\r\n",
    )
    .await;
    assert!(acting.starts_with("http/1.1 429"), "{acting}");
    assert!(
        send(&served, &greedy, "/readyz", "")
            .await
            .starts_with("http/1.1 200")
    );
    let line = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"greedy\",\
                priority_level=\"none\",reason=\"concurrency-limit\"} 2";
    assert!(reports(&served.api, line).await);
    // Requests of this process are not limited.
    let local = served.api.as_user("greedy", &["system:authenticated"]);
    assert_eq!(local.get("/api").await.0, 200);
    let path = format!("{SCHEMAS}/greedy");
    assert_eq!(served.api.send("DELETE", &path, Value::Null).await.0, 200);
    assert!(
        send(&served, &greedy, "/api", "")
            .await
            .starts_with("http/1.1 200")
    );
}

/// findings C53, A1: the configuration in force follows the store.
#[tokio::test]
async fn a_schema_that_went_past_the_server_is_out_of_force() {
    let served = Served::new(Limits::default()).await;
    let greedy = client(&served, "greedy");
    served
        .api
        .create(LEVELS, level("none", 0, json!({"type": "Reject"})))
        .await;
    served
        .api
        .create(SCHEMAS, schema("greedy", "none", "greedy"))
        .await;
    assert!(
        send(&served, &greedy, "/api", "")
            .await
            .starts_with("http/1.1 429")
    );
    let range = Range {
        start: b"/registry/".to_vec(),
        end: Some(b"/registry0".to_vec()),
        ..Range::default()
    };
    let all = served.api.store.range(range).await.unwrap().items;
    let pair = all
        .iter()
        .find(|pair| pair.key.ends_with(b"/greedy"))
        .unwrap();
    let txn = Txn {
        compare: vec![],
        operations: vec![Operation::Delete {
            key: pair.key.to_vec(),
        }],
    };
    served.api.store.txn(txn).await.unwrap();
    until("the schema is out of force", async || {
        send(&served, &greedy, "/api", "")
            .await
            .starts_with("http/1.1 200")
    })
    .await;
}

/// findings C55: a waiting request gets its response later, and does not block other requests.
#[tokio::test]
async fn a_request_waits_for_its_turn() {
    // Each level has one seat.
    let served = Served::new(Limits {
        requests_in_flight_max: 1,
        ..Limits::default()
    })
    .await;
    let queues = json!({"type": "Queue",
        "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 1}});
    served.api.create(LEVELS, level("one", 1, queues)).await;
    served
        .api
        .create(SCHEMAS, schema("slow", "one", "slow"))
        .await;
    let slow = client(&served, "slow");
    let of = "flow_schema=\"slow\",priority_level=\"one\"";
    let executing =
        |count: usize| format!("apiserver_flowcontrol_current_executing_requests{{{of}}} {count}");
    // The body of the first request is sent later.
    let mut first = served.connect(Some(&slow)).await;
    let head = format!(
        "POST {REVIEWS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: 11\r\n\r\n"
    );
    first.write_all(head.as_bytes()).await.unwrap();
    until("the first runs", async || {
        reports(&served.api, &executing(1)).await
    })
    .await;
    let request = get("/api", "");
    let mut second = served.connect(Some(&slow)).await;
    second.write_all(request.as_bytes()).await.unwrap();
    let waiting = format!("apiserver_flowcontrol_current_inqueue_requests{{{of}}} 1");
    until("the second waits", async || {
        reports(&served.api, &waiting).await
    })
    .await;
    let third = send(&served, &slow, "/api", "").await;
    assert!(
        third.starts_with("http/1.1 429"),
        "the queue is full: {third}"
    );
    for other in [served.admin(), client(&served, "ann")] {
        let response = send(&served, &other, "/api", "").await;
        assert!(response.starts_with("http/1.1 200"), "{response}");
    }
    first.write_all(b"{\"spec\":{}}").await.unwrap();
    let mut response = [0; 12];
    second.read_exact(&mut response).await.unwrap();
    assert_eq!(&response, b"HTTP/1.1 200");
    drop((first, second));
    until("all is given back", async || {
        reports(&served.api, &executing(0)).await
    })
    .await;
}

/// findings C55: only the start of a watch needs a seat.
#[tokio::test]
async fn watches_keep_no_seat() {
    let served = Served::new(Limits {
        requests_in_flight_max: 1,
        ..Limits::default()
    })
    .await;
    let api = &served.api;
    api.create(LEVELS, level("one", 1, json!({"type": "Reject"})))
        .await;
    api.create(SCHEMAS, schema("watcher", "one", "watcher"))
        .await;
    let roles = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "w"},
        "rules": [{"verbs": ["watch"], "apiGroups": [""], "resources": ["pods"]}]});
    api.create(&format!("{roles}/clusterroles"), role).await;
    let binding = json!({"metadata": {"name": "w"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "w"},
        "subjects": [{"kind": "User", "name": "watcher",
            "apiGroup": "rbac.authorization.k8s.io"}]});
    api.create(&format!("{roles}/clusterrolebindings"), binding)
        .await;
    let watcher = client(&served, "watcher");
    let watch = get("/api/v1/pods?watch=1", "");
    let mut open = Vec::new();
    // The role becomes effective a moment after its write.
    until("two watches are open", async || {
        let mut stream = served.connect(Some(&watcher)).await;
        stream.write_all(watch.as_bytes()).await.unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_ne!(&start, b"HTTP/1.1 429");
        if &start == b"HTTP/1.1 200" {
            open.push(stream);
        }
        open.len() == 2
    })
    .await;
}

/// findings C55: a list of many objects needs all seats of its level; a concurrent get waits.
#[tokio::test]
async fn a_long_list_takes_more_seats() {
    let store = EmbeddedStore::in_memory();
    {
        let before = Api::over(store.clone(), Limits::default(), None).await;
        for number in 0..201 {
            let map = json!({"metadata": {"name": format!("m{number}")}});
            before
                .create("/api/v1/namespaces/default/configmaps", map)
                .await;
        }
    }
    let served = Served::over(store, Limits::default()).await;
    // The level has two of 400 seats.
    served
        .api
        .create(LEVELS, level("few", 1, json!({"type": "Reject"})))
        .await;
    served
        .api
        .create(SCHEMAS, schema("lister", "few", "lister"))
        .await;
    let lister = client(&served, "lister");
    let seats = async |path: &str| {
        let response = send(&served, &lister, path, "").await;
        assert!(response.starts_with("http/1.1 403"), "{response}");
        let metrics = served.api.raw("GET", "/metrics", &[], "").await.text();
        let name = "apiserver_flowcontrol_work_estimated_seats_sum{flow_schema=\"lister\",";
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        let (_, sum) = line.rsplit_once(' ').unwrap();
        sum.parse::<usize>().unwrap()
    };
    let first = seats("/api/v1/namespaces/default/configmaps/m1").await;
    assert_eq!(first, 1);
    let second = seats("/api/v1/configmaps").await;
    assert_eq!(second, 1 + 3);
    assert_eq!(seats("/api/v1/configmaps?limit=150").await, second + 2);
}

/// findings C51: mandatory objects cannot be changed, and are created again after a deletion.
#[tokio::test]
async fn mandatory_objects_are_put_right() {
    let api = Api::new().await;
    for path in [SCHEMAS, LEVELS] {
        let path = format!("{path}/catch-all");
        let (_, mut object) = api.get(&path).await;
        let spec = object["spec"].clone();
        if path.starts_with(SCHEMAS) {
            object["spec"]["matchingPrecedence"] = json!(9999);
        } else {
            object["spec"]["limited"]["nominalConcurrencyShares"] = json!(9);
        }
        let (code, refused) = api.send("PUT", &path, object).await;
        assert_eq!(code, 422);
        let text = refused["message"].as_str().unwrap();
        assert!(
            text.ends_with("spec of 'catch-all' must equal the fixed value"),
            "{text}"
        );
        let mark = "apf.kubernetes.io/autoupdate-spec";
        let off = json!({"metadata": {"annotations": {mark: "false"}}});
        assert_eq!(api.patch(&path, "merge", off).await.0, 200);
        until("the annotation is right", async || {
            api.get(&path).await.1["metadata"]["annotations"][mark] == "true"
        })
        .await;
        assert_eq!(api.send("DELETE", &path, Value::Null).await.0, 200);
        until("the object is back", async || api.get(&path).await.0 == 200).await;
        assert_eq!(api.get(&path).await.1["spec"], spec);
    }
}

/// findings C51: the condition of a schema states whether its level exists.
#[tokio::test]
async fn a_schema_without_a_level_dangles() {
    let api = Api::new().await;
    api.create(SCHEMAS, schema("s", "later", "u")).await;
    let path = format!("{SCHEMAS}/s");
    let says = async |status: &str, reason: &str| {
        let condition = api.get(&path).await.1["status"]["conditions"][0].clone();
        (
            &condition["type"],
            &condition["status"],
            &condition["reason"],
        ) == (&json!("Dangling"), &json!(status), &json!(reason))
    };
    until("it dangles", async || says("True", "NotFound").await).await;
    api.create(LEVELS, level("later", 1, json!({"type": "Reject"})))
        .await;
    until("it is whole", async || says("False", "Found").await).await;
    // The generation counts changes of the spec only.
    assert_eq!(api.get(&path).await.1["metadata"]["generation"], 1);
}
