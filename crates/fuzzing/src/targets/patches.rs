//! Patches, each with its document: `[document, patch]`.

use json_tree::{Value, json};
use kube_api_server::decoders;
use openapi_documents::{Schema, TypeRef};
use structured_merge::apply::{self, OwnableFields, Writer};
use structured_merge::{json_patch, merge_patch, strategic_merge_patch};

use super::{Target, pair};

const WORDS: &[&str] = &[
    "op",
    "add",
    "remove",
    "replace",
    "move",
    "copy",
    "test",
    "path",
    "from",
    "value",
    "/",
    "/-",
    "/-1",
    "~0",
    "~1",
    "$patch",
    "replace",
    "delete",
    "merge",
    "$setElementOrder/containers",
    "$retainKeys",
    "$deleteFromPrimitiveList/finalizers",
    "containers",
    "name",
    "ports",
    "containerPort",
    "protocol",
    "f:spec",
    "k:{\"name\":\"c\"}",
    "v:\"x\"",
    "i:0",
    ".",
    "managedFields",
    "fieldsV1",
    "FieldsV1",
    "Apply",
    "Update",
    "manager",
    "operation",
    "ownerReferences",
    "uid",
    "metadata",
    "spec",
    "template",
];

fn stateful_set() -> TypeRef<'static> {
    let schema_type = Schema::published().lookup("apps", "v1", "StatefulSet");
    schema_type.expect("a kind that every cluster has")
}

fn writer(manager: &str) -> Writer<'_> {
    Writer {
        manager,
        api_version: "apps/v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
    }
}

pub const JSON: Target = Target {
    name: "json-patch",
    seeds: &[
        br#"[{"l":["a","b"],"m":{"x":1}},[{"op":"add","path":"/l/-","value":"c"},
            {"op":"move","from":"/l/-1","path":"/l/0"},{"op":"copy","from":"/m","path":"/n"},
            {"op":"test","path":"/m/x","value":1},{"op":"replace","path":"/m/x","value":2},
            {"op":"remove","path":"/l/1"}]]"#,
        br#"[{"a/b":{"~":1}},[{"op":"remove","path":"/a~1b/~0"},{"op":"add","path":"","value":{}}]]"#,
    ],
    words: WORDS,
    run: |bytes| {
        if let Some((document, patch)) = pair(bytes) {
            let _refused = json_patch(document, &patch).map_err(|error| error.status());
        }
    },
};

pub const MERGE: Target = Target {
    name: "merge-patch",
    seeds: &[br#"[{"a":{"b":1,"c":[1]},"d":null},{"a":{"b":null,"e":{"f":null}},"d":[{}]}]"#],
    words: WORDS,
    run: |bytes| {
        if let Some((document, patch)) = pair(bytes)
            && let Ok(merged) = merge_patch(document, patch.clone())
        {
            // A second application changes nothing (RFC 7386).
            assert_eq!(merge_patch(merged.clone(), patch), Ok(merged));
        }
    },
};

const SET: &[u8] = br#"[{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"w","labels":{"a":"b"},
"finalizers":["x/y"],"managedFields":[{"manager":"one","operation":"Apply","apiVersion":"apps/v1",
"time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{"f:a":{}}},
"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{},"f:image":{}}}}}}}}]},
"spec":{"serviceName":"w","replicas":2,"selector":{"matchLabels":{"a":"w"}},"template":{"metadata":
{"labels":{"a":"w"}},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80,"protocol":
"TCP"}],"env":[{"name":"E","value":"1"}]}],"tolerations":[{"key":"k"}]}}}},
{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"w","labels":{"a":null},
"$setElementOrder/finalizers":["z"],"$deleteFromPrimitiveList/finalizers":["x/y"]},"spec":{"template":{"spec":
{"$setElementOrder/containers":[{"name":"d"},{"name":"c"}],"containers":[{"name":"d","image":"j"},
{"name":"c","$patch":"replace","image":"k"},{"name":"e","$patch":"delete"}],"$retainKeys":["containers"]}}}}]"#;

pub const STRATEGIC: Target = Target {
    name: "strategic-merge-patch",
    seeds: &[SET],
    words: WORDS,
    run: |bytes| {
        if let Some((document, patch)) = pair(bytes) {
            let merged = strategic_merge_patch(document, patch, stateful_set());
            let _refused = merged.map_err(|error| error.status());
        }
    },
};

const CONFIG: &[u8] = br#"[{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"w"},"spec":{"replicas":2,
"template":{"spec":{"containers":[{"name":"c","image":"i"}],"volumes":[{"name":"v","emptyDir":{}}]}}}},
{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"w","annotations":{"a":"b"},"finalizers":["x/y"]},
"spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"c","image":"j","ports":[{"containerPort":1,
"protocol":"UDP"}]},{"name":"d"}]}}}}]"#;

pub const APPLY: Target = Target {
    name: "apply",
    seeds: &[CONFIG, SET],
    words: WORDS,
    run: |bytes| {
        // Other documents are refused before this step.
        let Some((live, config)) = pair(bytes).filter(|(_, config)| config["metadata"].is_object())
        else {
            return;
        };
        let kind = stateful_set();
        let reach = OwnableFields::AllBut(&["status"]);
        let apply = |live: Option<&Value>, manager| {
            apply::apply(live, &config, kind, &writer(manager), reach, true)
        };
        if let Ok(once) = apply(Some(&live), "one") {
            // A second application changes nothing.
            assert_eq!(apply(Some(&once), "one").as_ref(), Ok(&once));
            // An equal configuration of a second manager changes only the ownership.
            if let Ok(mut shared) = apply(Some(&once), "two") {
                shared["metadata"]["managedFields"] = once["metadata"]["managedFields"].clone();
                assert_eq!(shared, once);
            }
        }
        let mut object = config.clone();
        apply::track(Some(&live), &mut object, kind, &writer("three"), reach);
        let _refused = apply(None, "one").map_err(|error| error.status());
    },
};

pub const MANAGED_FIELDS: Target = Target {
    name: "managed-fields",
    seeds: &[
        br#"[{"manager":"one","operation":"Apply","apiVersion":"apps/v1","time":"2026-01-01T00:00:00Z",
"fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:spec":{"f:replicas":{},
"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":
{".":{}}}}},"f:finalizers":{"v:\"x\"":{},"i:0":{}}}}}}},{"manager":"two","operation":"Update","subresource":
"status","apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{"f:status":{"f:replicas":{}}}}]"#,
    ],
    words: WORDS,
    run: |bytes| {
        let Some(managers) = decoders::json(bytes) else {
            return;
        };
        let live = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "w", "managedFields": managers}, "spec": {"replicas": 1},
        });
        let mut config = live.clone();
        config["spec"]["replicas"] = json!(2);
        let writer = writer("me");
        let mut changed = config.clone();
        apply::track(Some(&live), &mut changed, stateful_set(), &writer, OwnableFields::Everything);
        config["metadata"] = json!({"name": "w"});
        let applied = apply::apply(Some(&live), &config, stateful_set(), &writer, OwnableFields::Everything, true);
        let _refused = applied.map_err(|error| error.status());
    },
};
