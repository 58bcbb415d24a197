//! CustomResourceDefinitions and their kinds (kubectl.md 10.5). The test plays the role of the controller that
//! accepts names.

use json_tree::{Value, json};
use mvcc_store::{Operation, Range, Store, Txn};

use crate::harness::{Api, DEFINITIONS};

const BOATS: &str = "/apis/example.org/v1/namespaces/default/boats";

fn definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat", "shortNames": ["bt"]},
            "versions": [version("v1", true), version("v1beta1", false)]}})
}

fn version(name: &str, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.crew",
            "statusReplicasPath": ".status.crew"}},
        "additionalPrinterColumns": [{"name": "Crew", "type": "integer", "jsonPath": ".spec.crew"}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "crew": {"type": "integer", "default": 2, "maximum": 9},
                "ropes": {"type": "array", "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object", "required": ["name"],
                        "properties": {"name": {"type": "string"}, "length": {"type": "integer"}}}}},
                "x-kubernetes-validations": [{"rule": "self.crew != 7", "message": "not seven"}]},
            "status": {"type": "object", "properties": {"crew": {"type": "integer"}}}}}}})
}

async fn with_boats() -> Api {
    let api = Api::new().await;
    let (code, response) = api.send("POST", DEFINITIONS, definition()).await;
    assert_eq!(code, 201, "{response}");
    assert_eq!(response["spec"]["names"]["listKind"], "BoatList");
    assert_eq!(
        api.get(BOATS).await.0,
        404,
        "not before its names are accepted"
    );
    api.accept_definition("boats.example.org").await;
    api
}

fn boat(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.org/v1", "kind": "Boat", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn defaults_that_come_later_are_read_from_what_is_there() {
    let api = with_boats().await;
    let (code, _) = api.send("POST", BOATS, boat("a", json!({}))).await;
    assert_eq!(code, 201);
    let before = api.get(&format!("{BOATS}/a")).await.1;
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/sails";
    let sails = json!([{"op": "add", "path": path, "value": {"type": "integer", "default": 3}}]);
    let of_boats = format!("{DEFINITIONS}/boats.example.org");
    assert_eq!(api.patch(&of_boats, "json", sails).await.0, 200);
    let read = api.get(&format!("{BOATS}/a")).await.1;
    assert_eq!(read["spec"], json!({"crew": 2, "sails": 3}));
    assert_eq!(read["metadata"], before["metadata"]);
    let (_, list) = api.get(BOATS).await;
    assert_eq!(list["items"][0]["spec"]["sails"], 3);
    // The written object contains `apiVersion` and `kind`.
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(
        api.patch(&format!("{BOATS}/a"), "merge", label).await.1["spec"]["sails"],
        3
    );
    let none = json!([{"op": "remove", "path": format!("{path}/default")}]);
    assert_eq!(api.patch(&of_boats, "json", none).await.0, 200);
    assert_eq!(
        api.get(&format!("{BOATS}/a")).await.1["spec"],
        json!({"crew": 2, "sails": 3})
    );
}

/// The server then need not decode such an object for each reader.
#[tokio::test]
async fn a_written_object_is_stored_as_it_is_read() {
    let api = with_boats().await;
    assert_eq!(api.send("POST", BOATS, boat("a", json!({}))).await.0, 201);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(
        api.patch(&format!("{BOATS}/a"), "merge", label).await.0,
        200
    );
    let range = Range {
        start: b"/registry/example.org/boats/default/a".to_vec(),
        ..Range::default()
    };
    let items = api.store.range(range).await.unwrap().items;
    for _ in 0..2 {
        let read = api.raw("GET", &format!("{BOATS}/a"), &[], "").await;
        assert_eq!(read.text().trim_end().as_bytes(), &items[0].value[..]);
    }
}

#[tokio::test]
async fn objects_of_the_new_kind_live_like_others() {
    let api = with_boats().await;
    let (code, created) = api
        .send("POST", BOATS, boat("a", json!({"sails": 3})))
        .await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(created["spec"], json!({"crew": 2}), "defaulted and pruned");
    assert_eq!(created["metadata"]["generation"], 1);
    let (code, refused) = api
        .send("POST", BOATS, boat("b", json!({"crew": 10})))
        .await;
    assert_eq!(code, 422);
    assert_eq!(
        refused["message"],
        "Boat.example.org \"b\" is invalid: spec.crew: Invalid value: 10: spec.crew in body \
         should be less than or equal to 9"
    );
    let (code, refused) = api.send("POST", BOATS, boat("b", json!({"crew": 7}))).await;
    assert_eq!(
        (code, &refused["details"]["causes"][0]["field"]),
        (422, &json!("spec"))
    );
    let strict = format!("{BOATS}?fieldValidation=Strict");
    let (code, refused) = api
        .send("POST", &strict, boat("b", json!({"sails": 1})))
        .await;
    assert_eq!(code, 400, "{refused}");
    let text = refused["message"].as_str().unwrap();
    assert!(text.contains("unknown field \"spec.sails\""), "{text}");
    let list = api.get(BOATS).await.1;
    assert_eq!(
        (&list["kind"], list["items"].as_array().unwrap().len()),
        (&json!("BoatList"), 1)
    );
    // The other version contains an equal object under another `apiVersion`.
    let beta = "/apis/example.org/v1beta1/namespaces/default/boats/a";
    let (code, other) = api.get(beta).await;
    assert_eq!(
        (code, &other["apiVersion"]),
        (200, &json!("example.org/v1beta1"))
    );
    assert_eq!(other["metadata"]["uid"], created["metadata"]["uid"]);
    let (code, _) = api.send("DELETE", &format!("{BOATS}/a"), Value::Null).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn its_parts_are_served() {
    let api = with_boats().await;
    api.send("POST", BOATS, boat("a", json!({"crew": 3}))).await;
    let scale = format!("{BOATS}/a/scale");
    let (code, mut scale_object) = api.get(&scale).await;
    assert_eq!((code, &scale_object["spec"]["replicas"]), (200, &json!(3)));
    scale_object["spec"]["replicas"] = json!(5);
    assert_eq!(api.send("PUT", &scale, scale_object).await.0, 200);
    let (_, mut object) = api.get(&format!("{BOATS}/a")).await;
    assert_eq!(object["spec"]["crew"], 5);
    assert_eq!(object["metadata"]["generation"], 2);
    object["status"] = json!({"crew": 4});
    object["spec"]["crew"] = json!(1);
    let (code, object) = api.send("PUT", &format!("{BOATS}/a/status"), object).await;
    assert_eq!(code, 200, "{object}");
    assert_eq!(
        (&object["spec"]["crew"], &object["status"]["crew"]),
        (&json!(5), &json!(4))
    );
}

// findings-2 E14
#[tokio::test]
async fn a_scale_names_its_object_and_has_replicas() {
    let api = with_boats().await;
    let boat = json!({"apiVersion": "example.org/v1", "kind": "Boat", "metadata": {"name": "a"}});
    api.create(BOATS, boat).await;
    let path = format!("{BOATS}/a/scale");
    let refused = |response: (u16, Value)| (response.0, response.1["message"].clone());
    let missing = |code: u16, text: &str| (code, json!(text));
    assert_eq!(
        refused(api.get(&path).await),
        missing(
            500,
            "Internal error occurred: the spec replicas field \".spec.crew\" does not exist"
        )
    );
    assert_eq!(
        refused(
            api.patch(&path, "merge", json!({"metadata": {"labels": {}}}))
                .await
        ),
        missing(
            400,
            "the spec replicas field \".spec.crew\" cannot be empty"
        )
    );
    let scale = |metadata: Value| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata,
            "spec": {"replicas": 4}})
    };
    assert_eq!(
        refused(api.send("PUT", &path, scale(json!({"name": "b"}))).await),
        missing(
            400,
            "the name of the object (b) does not match the name on the URL (a)"
        )
    );
    assert_eq!(api.send("PUT", &path, scale(json!({}))).await.0, 400);
    let (code, scaled) = api.send("PUT", &path, scale(json!({"name": "a"}))).await;
    assert_eq!((code, &scaled["spec"]["replicas"]), (200, &json!(4)));
    let (_, boat) = api.get(&format!("{BOATS}/a")).await;
    assert_eq!(boat["spec"]["crew"], 4);
}

#[tokio::test]
async fn it_is_applied_and_patched() {
    let api = with_boats().await;
    let apply = |manager: &str| format!("{BOATS}/a?fieldManager={manager}");
    let headers = [("content-type", "application/apply-patch+yaml")];
    let rope = |name: &str, length: i64| {
        boat("a", json!({"ropes": [{"name": name, "length": length}]})).to_string()
    };
    let one = api
        .raw("PATCH", &apply("one"), &headers, rope("bow", 1))
        .await;
    assert_eq!(one.code, 201);
    let two = api
        .raw("PATCH", &apply("two"), &headers, rope("stern", 2))
        .await;
    assert_eq!(two.code, 200);
    let (_, object) = api.get(&format!("{BOATS}/a")).await;
    assert_eq!(
        object["spec"]["ropes"],
        json!([{"name": "bow", "length": 1}, {"name": "stern", "length": 2}])
    );
    let conflict = api
        .raw("PATCH", &apply("two"), &headers, rope("bow", 5))
        .await;
    assert_eq!(conflict.code, 409);
    let merge = [("content-type", "application/merge-patch+json")];
    let patch = r#"{"spec":{"crew":4}}"#;
    let merged = api.raw("PATCH", &format!("{BOATS}/a"), &merge, patch).await;
    assert_eq!(merged.code, 200);
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    let refused = api
        .raw("PATCH", &format!("{BOATS}/a"), &strategic, patch)
        .await;
    assert_eq!(refused.code, 415);
}

#[tokio::test]
async fn a_kind_is_served_as_soon_as_its_definition_is_stored() {
    let all = Range {
        start: b"/registry/".to_vec(),
        end: Some(b"/registry0".to_vec()),
        ..Range::default()
    };
    let listed = with_boats().await.store.range(all).await.unwrap();
    let mut items = listed.items.into_iter();
    let stored = items.find(|item| item.key.ends_with(b"/boats.example.org"));
    let stored = stored.unwrap();
    let api = Api::new().await;
    assert_eq!(api.get(BOATS).await.0, 404);
    // The write is that of a request that has not finished.
    let put = Operation::Put {
        key: stored.key.to_vec(),
        value: mvcc_store::Value::Plain(stored.value),
        lease: None,
    };
    let txn = Txn {
        compare: Vec::new(),
        operations: vec![put],
    };
    api.store.txn(txn).await.unwrap();
    assert_eq!(api.get(BOATS).await.0, 200);
}

#[tokio::test]
async fn the_best_version_is_preferred_whatever_the_definition_has_first() {
    let api = Api::new().await;
    let mut boats = definition();
    let best = boats["spec"]["versions"][0].clone();
    let mut early = best.clone();
    early["name"] = json!("v1alpha1");
    early["storage"] = json!(false);
    boats["spec"]["versions"] = json!([early, best]);
    let created = api.send("POST", DEFINITIONS, boats).await;
    assert_eq!(created.0, 201, "{created:?}");
    api.accept_definition("boats.example.org").await;
    let group = api.get("/apis/example.org").await.1;
    let order: Vec<_> = group["versions"].as_array().unwrap().iter().collect();
    assert_eq!(
        [&order[0]["version"], &order[1]["version"]],
        ["v1", "v1alpha1"]
    );
    assert_eq!(group["preferredVersion"]["version"], "v1");
}

#[tokio::test]
async fn documents_speak_of_it_at_once() {
    let api = Api::new().await;
    assert!(!api.get("/apis").await.1.to_string().contains("example.org"));
    let before = api.get("/openapi/v3").await.1;
    api.send("POST", DEFINITIONS, definition()).await;
    api.accept_definition("boats.example.org").await;
    let group = api.get("/apis/example.org").await.1;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let resources = api.get("/apis/example.org/v1").await.1.to_string();
    assert!(
        resources.contains("boats/status") && resources.contains("\"bt\""),
        "{resources}"
    );
    let after = api.get("/openapi/v3").await.1;
    assert_ne!(before, after);
    let document = api.get("/openapi/v3/apis/example.org/v1").await.1;
    let schema = &document["components"]["schemas"]["org.example.v1.Boat"];
    assert_eq!(
        schema["properties"]["spec"]["properties"]["crew"]["maximum"],
        9.0
    );
}

#[tokio::test]
async fn a_changed_definition_counts_from_then_on() {
    let api = with_boats().await;
    let path = format!("{DEFINITIONS}/boats.example.org");
    let (_, mut object) = api.get(&path).await;
    object["spec"]["versions"][1]["served"] = json!(false);
    let crew = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/crew/maximum";
    *object.pointer_mut(crew).unwrap() = json!(20);
    let (code, response) = api.send("PUT", &path, object).await;
    assert_eq!(code, 200, "{response}");
    assert_eq!(
        api.send("POST", BOATS, boat("a", json!({"crew": 15})))
            .await
            .0,
        201
    );
    let beta = "/apis/example.org/v1beta1/namespaces/default/boats";
    assert_eq!(api.get(beta).await.0, 404);
    // A definition in deletion waits for the deletion of its objects.
    let (code, dying) = api.send("DELETE", &path, Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(
        dying["metadata"]["finalizers"][0],
        "customresourcecleanup.apiextensions.k8s.io"
    );
    assert_eq!(api.get(BOATS).await.0, 200);
}

#[tokio::test]
async fn a_definition_that_is_none_is_refused_and_changes_nothing() {
    let api = Api::new().await;
    let mut wrong = definition();
    wrong["spec"]["versions"][0]["schema"] = json!({"openAPIV3Schema": {"type": "string"}});
    wrong["spec"]["versions"][1]["storage"] = json!(true);
    let (code, refused) = api.send("POST", DEFINITIONS, wrong).await;
    assert_eq!(code, 422);
    let causes = refused["details"]["causes"].as_array().unwrap();
    let fields: Vec<&str> = causes
        .iter()
        .filter_map(|cause| cause["field"].as_str())
        .collect();
    assert_eq!(
        fields,
        [
            "spec.versions[0].schema.openAPIV3Schema.type",
            "spec.versions[0].schema.openAPIV3Schema.type",
            "spec.versions"
        ]
    );
    assert_eq!(api.get(DEFINITIONS).await.1["items"], json!([]));
}

/// Applies a Boat in a version.
async fn applied(api: &Api, version: &str, manager: &str, spec: Value) -> (u16, Value) {
    let mut boat = boat("a", spec);
    boat["apiVersion"] = json!(format!("example.org/{version}"));
    let path =
        format!("/apis/example.org/{version}/namespaces/default/boats/a?fieldManager={manager}");
    api.patch(&path, "apply", boat).await
}

/// kubectl.md 0.7
#[tokio::test]
async fn who_applied_in_another_version_still_owns_and_drops_what_it_said() {
    let api = with_boats().await;
    let all = json!({"crew": 3, "ropes": [{"name": "main", "length": 5}]});
    assert_eq!(applied(&api, "v1beta1", "one", all).await.0, 201);
    let (code, refused) = applied(&api, "v1", "two", json!({"crew": 4})).await;
    assert_eq!(
        (code, &refused["message"]),
        (
            409,
            &json!("Apply failed with 1 conflict: conflict with \"one\": .spec.crew")
        )
    );
    // The manager writes in the other version, also when the previous version is no longer served.
    let (_, mut definition) = api.get(&format!("{DEFINITIONS}/boats.example.org")).await;
    definition["spec"]["versions"][1]["served"] = json!(false);
    let path = format!("{DEFINITIONS}/boats.example.org");
    assert_eq!(api.send("PUT", &path, definition).await.0, 200);
    let (code, boat) = applied(&api, "v1", "one", json!({"crew": 4})).await;
    assert_eq!((code, &boat["spec"]), (200, &json!({"crew": 4})), "{boat}");
    let managers = boat["metadata"]["managedFields"].as_array().unwrap();
    let versions: Vec<&Value> = managers.iter().map(|entry| &entry["apiVersion"]).collect();
    assert_eq!(versions, ["example.org/v1"]);
}

/// Every response of a version that its definition declares deprecated contains a warning.
#[tokio::test]
async fn a_deprecated_version_says_what_to_use_instead() {
    let api = with_boats().await;
    let path = format!("{DEFINITIONS}/boats.example.org");
    let deprecate = json!([{"op": "add", "path": "/spec/versions/1/deprecated", "value": true}]);
    assert_eq!(api.patch(&path, "json", deprecate).await.0, 200);
    let old = BOATS.replace("/v1/", "/v1beta1/");
    let warning = "299 - \"example.org/v1beta1 Boat is deprecated; use example.org/v1 Boat\"";
    let response = api.raw("GET", &old, &[], "").await;
    assert_eq!(
        (response.code, &response.headers["warning"]),
        (200, &warning.parse().unwrap())
    );
    let response = api.raw("GET", &format!("{old}/absent"), &[], "").await;
    assert_eq!(
        (response.code, &response.headers["warning"]),
        (404, &warning.parse().unwrap())
    );
    let response = api.raw("GET", BOATS, &[], "").await;
    assert!(response.headers.get("warning").is_none());
}
