//! Types, strict decoding and documents (kubectl.md 0.8-0.10).

#![expect(clippy::unwrap_used, reason = "a test")]

use json_tree::{Value, json};
use openapi_documents::{ListType, MapType, Schema, Shape};
use resource_kinds::info::{ALL, SCALE, STATUS};
use resource_kinds::{Body, KindInfo, Scope, Subresource, Verb, Words, WriteRules};

fn kind(
    group: &'static str,
    kind: &'static str,
    list_kind: &'static str,
    plural: &'static str,
) -> KindInfo<'static> {
    KindInfo {
        group,
        version: "v1",
        kind,
        list_kind,
        plural,
        singular: "",
        short_names: Words::Fixed(&[]),
        categories: Words::Fixed(&[]),
        scope: Scope::Namespaced,
        verbs: ALL,
        subresources: &[STATUS, SCALE],
        storage: plural,
        writes: WriteRules::ORDINARY,
    }
}

fn kinds() -> Vec<KindInfo<'static>> {
    let mut pods = kind("", "Pod", "PodList", "pods");
    pods.subresources = &[Subresource {
        name: "exec",
        body: Body::Other {
            group: "",
            version: "v1",
            kind: "PodExecOptions",
        },
        verbs: &[Verb::Create, Verb::Get],
    }];
    vec![
        kind("apps", "StatefulSet", "StatefulSetList", "statefulsets"),
        pods,
    ]
}

fn unknown(group: &str, kind: &str, object: Value) -> Vec<String> {
    Schema::published().unknown_fields(group, "v1", kind, &object)
}

#[test]
fn unknown_fields_are_named_by_path() {
    let paths = unknown(
        "apps",
        "StatefulSet",
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "foo": 1,
            "metadata": {"name": "a", "lables": {}},
            "spec": {"template": {"spec": {
                "nodeSelector": {"any": "thing"},
                "containers": [{"name": "a", "foo": 1,
                    "ports": [{"containerPort": 1}, {"hostport": 1}],
                    "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}]}}}}),
    );
    assert_eq!(
        paths,
        [
            "foo",
            "metadata.lables",
            "spec.template.spec.containers[0].foo",
            "spec.template.spec.containers[0].ports[1].hostport",
        ]
    );
}

#[test]
fn free_form_parts_have_no_unknown_fields() {
    let revision = json!({"data": {"spec": {"template": {"$patch": "replace"}}}, "revision": 1});
    assert_eq!(unknown("apps", "ControllerRevision", revision), [""; 0]);
    let fields = json!({"metadata": {"managedFields": [
        {"manager": "a", "fieldsV1": {"f:spec": {}}, "time": "2026-01-01T00:00:00Z"}]}});
    assert_eq!(unknown("", "Pod", fields), [""; 0]);
    let map = json!({"data": {"a.b/c": "x"}, "binaryData": {"x": "eA=="}});
    assert_eq!(unknown("", "ConfigMap", map), [""; 0]);
    let service = json!({"spec": {"ports": [{"port": 1, "targetPort": "web"}]}});
    assert_eq!(unknown("", "Service", service), [""; 0]);
    assert_eq!(unknown("example.org", "Unknown", json!({"x": 1})), [""; 0]);
}

#[test]
fn merge_facts_are_found_on_fields() {
    let pod = Schema::published().lookup("", "v1", "Pod").unwrap();
    let spec = pod.field("spec").unwrap().type_ref();
    assert_eq!(spec.definition_name(), Some("io.k8s.api.core.v1.PodSpec"));
    let containers = spec.field("containers").unwrap();
    assert!(containers.merges());
    assert_eq!(containers.merge_key(), Some("name"));
    assert_eq!(containers.list_type(), Some(ListType::Map));
    assert_eq!(containers.list_map_keys().collect::<Vec<_>>(), ["name"]);
    let container = containers.type_ref().element().unwrap();
    assert_eq!(container.shape(), Shape::Object);
    assert_eq!(
        container.field("ports").unwrap().merge_key(),
        Some("containerPort")
    );
    assert_eq!(
        container.field("volumeMounts").unwrap().merge_key(),
        Some("mountPath")
    );
    assert!(spec.field("volumes").unwrap().retains_keys());
    assert!(!spec.field("tolerations").unwrap().merges());
    assert_eq!(
        spec.field("nodeSelector").unwrap().map_type(),
        Some(MapType::Atomic)
    );
    let metadata = pod.field("metadata").unwrap().type_ref();
    let finalizers = metadata.field("finalizers").unwrap();
    assert!(finalizers.merges() && finalizers.merge_key().is_none());
    assert_eq!(
        finalizers.type_ref().element().unwrap().shape(),
        Shape::Scalar
    );
}

fn v3(group_version: &str) -> Value {
    let bytes = Schema::published()
        .openapi_v3_document(group_version, &kinds(), &[])
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// kubectl.md 0.9: kubectl uses the server's field validation only if the document contains the parameter.
#[test]
fn patch_operations_offer_field_validation() {
    let document = v3("apps/v1");
    let path = "/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}";
    let patch = &document["paths"][path]["patch"];
    let gvk = json!({"group": "apps", "version": "v1", "kind": "StatefulSet"});
    assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedStatefulSet");
    let names: Vec<&str> = patch["parameters"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|parameter| parameter["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            "dryRun",
            "fieldManager",
            "fieldValidation",
            "force",
            "pretty"
        ]
    );
    let content = patch["requestBody"]["content"].as_object().unwrap();
    assert!(content.contains_key("application/strategic-merge-patch+json"));
    let scale = &document["paths"][format!("{path}/scale")]["get"];
    assert_eq!(scale["x-kubernetes-group-version-kind"]["kind"], "Scale");
}

#[test]
fn definitions_carry_merge_facts_and_kinds() {
    let document = v3("v1");
    let schemas = &document["components"]["schemas"];
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let pod = &schemas["io.k8s.api.core.v1.Pod"];
    let gvk = json!([{"group": "", "version": "v1", "kind": "Pod"}]);
    assert_eq!(pod["x-kubernetes-group-version-kind"], gvk);
    let spec = &pod["properties"]["spec"];
    let reference = json!([{"$ref": "#/components/schemas/io.k8s.api.core.v1.PodSpec"}]);
    assert_eq!(spec["allOf"], reference);
    let exec = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"]["get"];
    assert_eq!(exec["x-kubernetes-action"], "connect");
}

/// Each reference in a document has a target in the document.
#[test]
fn documents_are_closed() {
    fn references(value: &Value, targets: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(target)) = members.get("$ref") {
                    targets.push(target.clone());
                }
                members
                    .values()
                    .for_each(|member| references(member, targets));
            }
            Value::Array(all) => all.iter().for_each(|one| references(one, targets)),
            _ => {}
        }
    }
    let v2 = Schema::published().openapi_v2_document(&kinds(), &[]);
    for document in [
        v3("v1"),
        v3("apps/v1"),
        serde_json::from_slice(&v2).unwrap(),
    ] {
        let mut targets = Vec::new();
        references(&document, &mut targets);
        assert!(targets.len() > 100, "{}", targets.len());
        for target in targets {
            let pointer = target.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
    }
}

#[test]
fn index_names_each_group_version_with_a_hash_of_its_document() {
    let schema = Schema::published();
    let index: Value = serde_json::from_slice(&schema.openapi_v3_index(&kinds(), &[])).unwrap();
    let paths = index["paths"].as_object().unwrap();
    assert_eq!(paths.keys().collect::<Vec<_>>(), ["api/v1", "apis/apps/v1"]);
    let url = paths["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
    assert_eq!(
        schema.openapi_v3_index(&kinds(), &[]),
        schema.openapi_v3_index(&kinds(), &[])
    );
    assert!(
        schema
            .openapi_v3_document("batch/v1", &kinds(), &[])
            .is_none()
    );
}

#[test]
fn v2_document_has_the_old_forms() {
    let bytes = Schema::published().openapi_v2_document(&kinds(), &[]);
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(document["swagger"], "2.0");
    let quantity = &document["definitions"]["io.k8s.apimachinery.pkg.api.resource.Quantity"];
    assert_eq!(quantity["type"], "string");
    let either = &document["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!(either["format"], "int-or-string");
    let post = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
    assert_eq!(
        post["consumes"],
        json!(["application/json", "application/yaml"])
    );
}

/// A kind without a schema could not be validated, patched or explained.
#[test]
fn every_served_kind_has_a_schema_and_a_document() {
    let schema = Schema::published();
    let kinds = resource_kinds::all(&resource_kinds::ClusterConfig::default());
    let served: Vec<KindInfo<'_>> = kinds.iter().map(|kind| kind.info()).collect();
    for info in &served {
        let KindInfo {
            group,
            version,
            kind,
            ..
        } = info;
        assert!(
            schema.lookup(group, version, kind).is_some(),
            "{group}/{version} {kind}"
        );
        let bodies = info.subresources.iter().map(|part| info.body(part));
        for (group, version, body) in bodies.filter(|(.., body)| !body.ends_with("Options")) {
            let object_type = schema.lookup(group, version, body);
            assert!(object_type.is_some(), "{body} of {kind}");
        }
        let document = schema
            .openapi_v3_document(&info.api_version(), &served, &[])
            .unwrap();
        let document: Value = serde_json::from_slice(&document).unwrap();
        let lists = document["paths"].as_object().unwrap();
        assert!(!lists.is_empty(), "{kind}");
    }
}

// findings C56
#[test]
fn older_watches_and_what_is_passed_on_are_in_the_document() {
    const PROXY: Subresource = Subresource {
        name: "proxy",
        body: Body::Other {
            group: "",
            version: "v1",
            kind: "PodProxyOptions",
        },
        verbs: &[Verb::Create, Verb::Get],
    };
    let mut pods = kind("", "Pod", "PodList", "pods");
    pods.subresources = &[PROXY];
    let document = Schema::published().openapi_v2_document(&[pods], &[]);
    let document: Value = serde_json::from_slice(&document).unwrap();
    let paths = &document["paths"];
    let one = "/api/v1/namespaces/{namespace}/pods/{name}";
    for (path, method, id, action) in [
        (
            format!("{one}/proxy"),
            "put",
            "connectCoreV1PutNamespacedPodProxy",
            "connect",
        ),
        (
            format!("{one}/proxy/{{path}}"),
            "head",
            "connectCoreV1HeadNamespacedPodProxyWithPath",
            "connect",
        ),
        (
            "/api/v1/watch/pods".to_owned(),
            "get",
            "watchCoreV1PodListForAllNamespaces",
            "watchlist",
        ),
        (
            "/api/v1/watch/namespaces/{namespace}/pods".to_owned(),
            "get",
            "watchCoreV1NamespacedPodList",
            "watchlist",
        ),
        (
            "/api/v1/watch/namespaces/{namespace}/pods/{name}".to_owned(),
            "get",
            "watchCoreV1NamespacedPod",
            "watch",
        ),
    ] {
        let operation = &paths[&path][method];
        assert_eq!(operation["operationId"], id, "{path}");
        assert_eq!(operation["x-kubernetes-action"], action, "{path}");
    }
    assert_eq!(
        paths[format!("{one}/proxy")].as_object().unwrap().len(),
        8,
        "methods, parameters"
    );
    let event = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";
    let required = &document["definitions"][event]["required"];
    assert_eq!(*required, json!(["type", "object"]));
}

mod custom {
    use json_tree::{Value, json};
    use openapi_documents::{CustomKind, ListType, Schema, Shape};
    use resource_kinds::{KindInfo, Scope, Verb, Words, WriteRules};

    const BOAT: KindInfo<'static> = KindInfo {
        group: "example.org",
        version: "v1",
        kind: "Boat",
        list_kind: "BoatList",
        plural: "boats",
        singular: "boat",
        short_names: Words::Fixed(&[]),
        categories: Words::Fixed(&[]),
        scope: Scope::Namespaced,
        verbs: &[Verb::Get, Verb::List, Verb::Create, Verb::Patch],
        subresources: &[],
        storage: "example.org/boats",
        writes: WriteRules::ORDINARY,
    };

    fn definition() -> Value {
        json!({"type": "object", "description": "Floats.", "properties": {
            "spec": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"},
                "port": {"x-kubernetes-int-or-string": true},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "engine": {"type": "object", "x-kubernetes-embedded-resource": true},
                "crew": {"type": "array", "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["rank", "name"],
                    "items": {"type": "object", "properties": {
                        "rank": {"type": "string", "default": "mate"},
                        "name": {"type": "string"}}}}}}}})
    }

    #[test]
    fn its_fields_and_lists_are_known() {
        let schema = Schema::custom(&BOAT, &definition());
        let root = schema.lookup("example.org", "v1", "Boat").unwrap();
        let crew = root
            .field("spec")
            .unwrap()
            .type_ref()
            .field("crew")
            .unwrap();
        assert_eq!(crew.list_type(), Some(ListType::Map));
        assert_eq!(crew.list_map_keys().collect::<Vec<_>>(), ["rank", "name"]);
        let member = crew.type_ref().element().unwrap();
        assert_eq!(member.field("rank").unwrap().key_default(), Some("mate"));
        let free = root
            .field("spec")
            .unwrap()
            .type_ref()
            .field("free")
            .unwrap();
        assert_eq!(free.type_ref().shape(), Shape::Any);
        // The type of the metadata is that of all objects.
        let metadata = root.field("metadata").unwrap().type_ref();
        assert!(metadata.field("ownerReferences").is_some());
        let object = json!({"metadata": {"name": "a", "nme": "b"}, "spec": {"free": {"x": 1},
            "crew": [{"rank": "x", "rnk": "y"}]}, "junk": 1});
        let unknown = schema.unknown_fields("example.org", "v1", "Boat", &object);
        assert_eq!(unknown, ["metadata.nme", "spec.crew[0].rnk", "junk"]);
    }

    // findings-2 C34
    #[test]
    fn what_is_known_within_an_open_part_has_its_type() {
        let mut definition = definition();
        let spec = &mut definition["properties"]["spec"];
        spec["x-kubernetes-preserve-unknown-fields"] = json!(true);
        spec["properties"]["engine"]["x-kubernetes-preserve-unknown-fields"] = json!(true);
        let schema = Schema::custom(&BOAT, &definition);
        let root = schema.lookup("example.org", "v1", "Boat").unwrap();
        let spec = root.field("spec").unwrap().type_ref();
        assert_eq!(spec.field("junk").unwrap().type_ref().shape(), Shape::Any);
        let crew = spec.field("crew").unwrap();
        assert_eq!(crew.list_type(), Some(ListType::Map));
        let member = crew.type_ref().element().unwrap();
        // In server-side apply, all fields inside of an open part are allowed.
        assert!(member.field("junk").is_some());
        let engine = spec.field("engine").unwrap().type_ref();
        assert_eq!(engine.field("junk").unwrap().type_ref().shape(), Shape::Any);
        let metadata = engine.field("metadata").unwrap().type_ref();
        assert!(metadata.field("finalizers").unwrap().merges() && metadata.field("nme").is_none());
    }

    #[test]
    fn a_kind_that_leaves_all_open_has_typed_metadata() {
        let mut definition = definition();
        definition["x-kubernetes-preserve-unknown-fields"] = json!(true);
        let schema = Schema::custom(&BOAT, &definition);
        let object = json!({"metadata": {"nme": "b"}, "junk": {"x": 1}, "spec": {"junk": 1}});
        let unknown = schema.unknown_fields("example.org", "v1", "Boat", &object);
        assert_eq!(unknown, ["metadata.nme"]);
        let root = schema.lookup("example.org", "v1", "Boat").unwrap();
        let junk = root.field("junk").unwrap();
        assert_eq!(junk.type_ref().shape(), Shape::Any);
    }

    #[test]
    fn of_a_kind_that_leaves_all_open_the_older_document_says_that_it_is_an_object() {
        let mut definition = definition();
        definition["x-kubernetes-preserve-unknown-fields"] = json!(true);
        let boat = CustomKind {
            info: BOAT,
            schema: &definition,
            selectable: Words::Fixed(&[]),
        };
        let document = Schema::published().openapi_v2_document(&[BOAT], &[boat]);
        let document: Value = serde_json::from_slice(&document).unwrap();
        let boat = &document["definitions"]["org.example.v1.Boat"];
        assert_eq!(boat["type"], "object");
        assert_eq!(boat["x-kubernetes-group-version-kind"][0]["kind"], "Boat");
        assert_eq!(boat.as_object().unwrap().len(), 2, "{boat}");
    }

    #[test]
    fn it_is_in_the_documents() {
        let definition = definition();
        let custom = [CustomKind {
            info: BOAT,
            schema: &definition,
            selectable: Words::Fixed(&["spec.name"]),
        }];
        let published = Schema::published();
        let read = |bytes: Vec<u8>| -> Value { serde_json::from_slice(&bytes).unwrap() };
        let v3 = read(
            published
                .openapi_v3_document("example.org/v1", &[BOAT], &custom)
                .unwrap(),
        );
        let boat = &v3["components"]["schemas"]["org.example.v1.Boat"];
        assert_eq!(boat["x-kubernetes-group-version-kind"][0]["kind"], "Boat");
        // findings-2 E14: as upstream.
        let selectable = json!([{"fieldPath": "spec.name"}]);
        assert_eq!(boat["x-kubernetes-selectable-fields"], selectable);
        let port = &boat["properties"]["spec"]["properties"]["port"];
        assert_eq!(
            port["anyOf"],
            json!([{"type": "integer"}, {"type": "string"}])
        );
        let required = &boat["properties"]["spec"]["properties"]["engine"]["required"];
        assert_eq!(*required, json!(["kind", "apiVersion"]));
        assert_eq!(boat["properties"]["spec"]["required"], json!(["name"]));
        assert!(v3["components"]["schemas"]["org.example.v1.BoatList"].is_object());
        // findings C5, C23: the descriptions for `kubectl explain`, also of embedded objects.
        let engine = &boat["properties"]["spec"]["properties"]["engine"];
        for properties in [&boat["properties"], &engine["properties"]] {
            for (field, start) in [
                ("apiVersion", "APIVersion defines the versioned schema"),
                ("kind", "Kind is a string value representing"),
                ("metadata", "Standard object's metadata."),
            ] {
                let text = properties[field]["description"].as_str().unwrap();
                assert!(text.starts_with(start), "{text}");
            }
            let meta = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
            assert_eq!(properties["metadata"]["allOf"][0]["$ref"], meta);
        }
        assert!(v3["paths"]["/apis/example.org/v1/namespaces/{namespace}/boats"].is_object());
        let one = &v3["paths"]["/apis/example.org/v1/namespaces/{namespace}/boats/{name}"];
        let patches = one["patch"]["requestBody"]["content"].as_object().unwrap();
        assert!(patches.contains_key("application/merge-patch+json"));
        let strategic = "application/strategic-merge-patch+json";
        assert!(!patches.contains_key(strategic), "clients would send it");
        let v2 = read(published.openapi_v2_document(&[BOAT], &custom));
        let spec = &v2["definitions"]["org.example.v1.Boat"]["properties"]["spec"];
        assert_eq!(
            spec["properties"]["free"].get("type"),
            None,
            "anything goes"
        );
        assert!(!published.openapi_v2_protobuf(&[BOAT], &custom).is_empty());
        let index = read(published.openapi_v3_index(&[BOAT], &custom));
        assert!(index["paths"]["apis/example.org/v1"].is_object());
    }
}
