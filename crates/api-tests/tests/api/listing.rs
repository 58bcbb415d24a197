//! Lists: selectors, pages, versions, tables.

use json_tree::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, config_map, pod};

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

async fn with_maps(count: usize) -> Api {
    let api = Api::new().await;
    for i in 0..count {
        let mut map = config_map(&format!("m{i}"));
        map["metadata"]["labels"] = json!({"n": i.to_string(), "odd": (i % 2).to_string()});
        api.create(CONFIG_MAPS, map).await;
    }
    api
}

#[tokio::test]
async fn a_list_shows_one_moment_page_by_page() {
    // kubectl.md 0.14
    let api = with_maps(5).await;
    let (code, first) = api.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!(code, 200);
    assert_eq!(first["kind"], "ConfigMapList");
    assert_eq!(names(&first), ["m0", "m1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    // Pages that follow do not contain changes that were made after the first page.
    api.create(CONFIG_MAPS, config_map("m11")).await;
    api.send("DELETE", &format!("{CONFIG_MAPS}/m3"), Value::Null)
        .await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = api
        .get(&format!("{CONFIG_MAPS}?limit=2&continue={token}"))
        .await;
    assert_eq!(names(&second), ["m2", "m3"]);
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    let token = second["metadata"]["continue"].as_str().unwrap();
    let (_, third) = api
        .get(&format!("{CONFIG_MAPS}?limit=2&continue={token}"))
        .await;
    assert_eq!(names(&third), ["m4"]);
    assert!(third["metadata"].get("continue").is_none());
    let (_, now) = api.get(CONFIG_MAPS).await;
    assert_eq!(names(&now), ["m0", "m1", "m11", "m2", "m4"]);
}

#[tokio::test]
async fn selectors_select_across_pages() {
    // kubectl.md 0.15
    let api = with_maps(6).await;
    let cases = [
        ("labelSelector=odd%3D1", vec!["m1", "m3", "m5"]),
        ("labelSelector=n+in+(1,2),odd", vec!["m1", "m2"]),
        ("labelSelector=!odd", vec![]),
        ("labelSelector=odd%3D1&limit=10", vec!["m1", "m3", "m5"]),
        ("fieldSelector=metadata.name%3Dm4", vec!["m4"]),
        (
            "fieldSelector=metadata.name!%3Dm4,metadata.namespace%3Ddefault&labelSelector=odd%3D0",
            vec!["m0", "m2"],
        ),
    ];
    for (query, expected) in cases {
        let (code, list) = api.get(&format!("{CONFIG_MAPS}?{query}")).await;
        assert_eq!(code, 200, "{query} {list}");
        assert_eq!(names(&list), expected, "{query}");
    }
    let (_, first) = api
        .get(&format!("{CONFIG_MAPS}?labelSelector=odd%3D1&limit=2"))
        .await;
    assert_eq!(names(&first), ["m1", "m3"]);
    assert!(first["metadata"].get("remainingItemCount").is_none());
    let token = first["metadata"]["continue"].as_str().unwrap();
    let path = format!("{CONFIG_MAPS}?labelSelector=odd%3D1&limit=2&continue={token}");
    assert_eq!(names(&api.get(&path).await.1), ["m5"]);
    api.with_account().await;
    api.create(PODS, pod("p")).await;
    let all = "/api/v1/pods?fieldSelector=status.phase%3DPending,spec.nodeName%3D";
    assert_eq!(names(&api.get(all).await.1), ["p"]);
    let none = "/api/v1/pods?fieldSelector=status.phase!%3DPending";
    assert!(names(&api.get(none).await.1).is_empty());
}

#[tokio::test]
async fn old_versions_can_be_read() {
    let api = with_maps(1).await;
    let (_, list) = api.get(CONFIG_MAPS).await;
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    api.create(CONFIG_MAPS, config_map("later")).await;
    let at = |query: &str| format!("{CONFIG_MAPS}?resourceVersion={version}{query}");
    assert_eq!(
        names(&api.get(&at("&resourceVersionMatch=Exact")).await.1),
        ["m0"]
    );
    let both = ["later", "m0"];
    assert_eq!(
        names(&api.get(&at("&resourceVersionMatch=NotOlderThan")).await.1),
        both
    );
    assert_eq!(names(&api.get(&at("")).await.1), both);
    let any = format!("{CONFIG_MAPS}?resourceVersion=0");
    assert_eq!(names(&api.get(&any).await.1), both);
}

#[tokio::test]
async fn tables_have_columns_rows_and_objects() {
    // kubectl.md 1.1, 1.2, 9.2
    let api = with_maps(2).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = |query: &str| {
        let path = format!("{CONFIG_MAPS}{query}");
        let api = &api;
        async move {
            api.raw("GET", &path, &[("accept", accept)], "")
                .await
                .json()
        }
    };
    let all = table("").await;
    assert_eq!(all["kind"], "Table");
    assert_eq!(all["apiVersion"], "meta.k8s.io/v1");
    let columns: Vec<&str> = all["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Data", "Age"]);
    assert_eq!(all["columnDefinitions"][0]["format"], "name");
    let row = &all["rows"][1];
    assert_eq!(row["cells"][0], "m1");
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row["object"]["metadata"]["labels"]["n"], "1");
    assert!(row["object"].get("data").is_none());
    assert!(table("?includeObject=None").await["rows"][0]["object"].is_null());
    assert_eq!(
        table("?includeObject=Object").await["rows"][0]["object"]["data"]["a"],
        "1"
    );
    let one = table("/m0").await;
    assert_eq!(one["rows"].as_array().unwrap().len(), 1);
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = api
        .raw("GET", CONFIG_MAPS, &[("accept", partial)], "")
        .await
        .json();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
}

#[tokio::test]
async fn large_lists_are_compressed_when_asked() {
    // kubectl.md 0.16
    let api = Api::new().await;
    let mut map = config_map("large");
    map["data"]["a"] = json!("x".repeat(200_000));
    api.create(CONFIG_MAPS, map).await;
    let plain = api.raw("GET", CONFIG_MAPS, &[], "").await;
    assert!(plain.headers.get("content-encoding").is_none());
    let small = api
        .raw("GET", CONFIG_MAPS, &[("accept-encoding", "gzip")], "")
        .await;
    assert_eq!(small.headers["content-encoding"], "gzip");
    let mut text = String::new();
    std::io::Read::read_to_string(
        &mut flate2::read::GzDecoder::new(&small.bytes[..]),
        &mut text,
    )
    .unwrap();
    assert_eq!(text, plain.text());
    assert!(small.bytes.len() * 10 < plain.bytes.len());
}

#[tokio::test]
async fn the_same_events_are_seen_in_both_groups() {
    // kubectl.md 4.4
    let api = Api::new().await;
    let core = "/api/v1/namespaces/default/events";
    let event = json!({
        "metadata": {"name": "e"}, "reason": "R", "message": "m", "type": "Normal",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "source": {"component": "c"}, "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z", "count": 1,
    });
    api.create(core, event).await;
    let (code, other) = api
        .get("/apis/events.k8s.io/v1/namespaces/default/events/e")
        .await;
    assert_eq!(code, 200);
    assert_eq!(other["apiVersion"], "events.k8s.io/v1");
    assert_eq!(other["note"], "m");
    assert_eq!(other["regarding"]["name"], "p");
    let (_, list) = api.get("/apis/events.k8s.io/v1/events").await;
    assert_eq!(list["items"][0]["note"], "m");
    let (_, events) = api
        .get(&format!(
            "{core}?fieldSelector=involvedObject.name%3Dp,reason%3DR"
        ))
        .await;
    assert_eq!(names(&events), ["e"]);
}

// findings C15
#[tokio::test]
async fn items_of_kubernetes_own_kinds_are_not_named_once_more() {
    let api = Api::new().await;
    api.create(CONFIG_MAPS, config_map("a")).await;
    for accept in ["application/json", "application/yaml"] {
        let response = api
            .raw("GET", CONFIG_MAPS, &[("accept", accept)], String::new())
            .await;
        let text = response.text();
        assert_eq!(text.matches("kind").count(), 1, "{accept}: {text}");
        assert!(text.contains("ConfigMapList"), "{text}");
    }
    let (_, list) = api.get(CONFIG_MAPS).await;
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    let (_, one) = api.get(&format!("{CONFIG_MAPS}/a")).await;
    assert_eq!(
        (&one["kind"], &one["apiVersion"]),
        (&"ConfigMap".into(), &"v1".into())
    );
}
