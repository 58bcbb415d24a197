//! The content of CustomResourceDefinitions: schemas, rules, paths.

use custom_resources::{
    Definition, DeviceSelector, Expression, JsonPath, Schema, Values, broken_rules, served_versions,
};
use json_tree::{Map, Value, json};
use resource_kinds::{ClusterConfig, Kind};
use structured_merge::apply::{self, OwnableFields, Writer, overlay};
use structured_merge::json_patch;

use super::{Target, pair};

pub const CEL: Target = Target {
    name: "cel",
    seeds: &[
        b"self.replicas >= 1 && self.names.all(n, n.startsWith('a') || n.matches('^[a-z]+$'))",
        b"has(self.x) ? self.x.map(i, i * 2).exists(i, i > 3) : size(self.names) < 5",
        b"self.names.filter(n, n.size() > 1).map(n, n.upperAscii()).join(',') != ''",
        b"duration('1h') < duration('90m') && timestamp('2026-01-01T00:00:00Z').getFullYear() == 2026",
        b"semver('1.2.3-rc.1+b').isLessThan(semver('2.0.0')) && cel.bind(x, self.names, x.size() > 0)",
        b"device.attributes['d.example.com'].model == 'a' && device.capacity['d.example.com'].memory.isLessThan(quantity('1Gi'))",
        b"quantity('1Gi').isGreaterThan(quantity('100M')) && ip('10.0.0.1').family() == 4",
        b"url('https://[::1]:8/a%20b?x=y#z').getQuery().size() > 0 && cidr('10.0.0.0/8').containsIP(ip('10.1.2.3'))",
        b"format.dns1123Label().validate('a-').hasValue() || '%.3f %e %s'.format([1.5, 2.5, [b'x', null]]) != ''",
        b"self.names.transformMap(i, v, {v: i}).all(k, v, sets.contains([k], [0])) || 'a,b'.split(',', 2).sort()[?5].hasValue()",
        b"oldSelf.replicas - self.replicas < 3 && dyn(self) != null && [1, 2u, 3.0, b'x', {'a': 1}].size() == 5",
    ],
    words: &[
        "self", "oldSelf", ".all(", ".map(", "exists_one(", "has(", "size(", "&&", "||", "?", ":", "in", "[",
        "]", "{", "}", "(", ")", "'", "r'", "b\"", "\\u0041", "1u", "0x1", "9223372036854775807", "-", "*", "/", "%",
        ".matches('(a+)+$')", "duration(", "timestamp(", ".repeat(", ".split('')", ".replace(", "optional", "null",
        "lists.range(", ".flatten(", ".sortBy(x, ", ".substring(", ".lastIndexOf(", ".findAll(", "math.", "\u{e9}",
    ],
    run: |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        if let Ok(selector) = DeviceSelector::compile(text) {
            let device = json!({"name": "x", "attributes": {"model": {"string": "a"}, "v": {"version": "1.0.0"}},
                "capacity": {"memory": {"value": "1Gi"}}});
            let _selected = selector.selects("d.example.com", &device);
        }
        if Expression::compile(text).is_err() {
            return;
        }
        let object = json!({"replicas": 3, "names": ["ab", "c"], "x": [1, 2, 3]});
        let numbers = json!({"type": "array", "items": {"type": "integer"}});
        let names = json!({"type": "array", "items": {"type": "string"}});
        let schema = Schema::parse(&json!({
            "type": "object",
            "properties": {"replicas": {"type": "integer"}, "names": names, "x": numbers},
            "x-kubernetes-validations": [{"rule": text}],
        }));
        broken_rules(&object, Some(&object), &schema);
    },
};

pub const CEL_OBJECTS: Target = Target {
    name: "cel-objects",
    seeds: &[
        b"Object{metadata: Object.metadata{labels: {'a': object.metadata.name}}, spec: Object.spec{x: 1}}",
        b"Object{spec: Object.spec{containers: object.spec.names.map(n, Object.spec.containers{name: n})}}",
        b"Object{spec: Object.spec{?a: object.?spec.?x, b: [1, 2u, 3.5, true, null, timestamp('2026-01-01T00:00:00Z')]}}",
        b"[JSONPatch{op: 'test', path: '/a', value: 1}, JSONPatch{op: 'add', path: '/b/-', value: Object.b{c: {}}}]",
        b"[JSONPatch{op: 'move', from: '/a', path: '/' + jsonpatch.escapeKey('x/~y')}]",
    ],
    words: &[
        "Object", "Object.spec", "JSONPatch", "{", "}", "[", "]", ":", ",", "?", "op", "path", "from", "value",
        "object", "object.spec", ".?", "optional.none()", "optional.of(", "1e999", "b'x'", "duration('1s')",
        "jsonpatch.escapeKey(", ".map(n, ", "'replace'", "'/-1'", "quantity('1')", "type(object)",
    ],
    run: |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        let Ok(expression) = Expression::compile_constructing(text, &["object"]) else {
            return;
        };
        let object = json!({"metadata": {"name": "p"}, "spec": {"x": 3, "names": ["ab", "c"]},
            "a": 1, "b": [1, 2, 3]});
        let mut values = Values::default();
        values.add("object", &object);
        let Ok(result) = expression.evaluate(&values) else {
            return;
        };
        if let (Ok(config), Some(pod)) = (result.to_object(), openapi_documents::Schema::published().lookup("", "v1", "Pod")) {
            let _merged = overlay(&object, &config, pod);
        }
        if let Ok(patch) = result.to_patch() {
            let _patched = json_patch(object, &patch);
        }
    },
};

const DEFINITION: &[u8] = br#"[{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":
{"name":"things.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"things",
"singular":"thing","kind":"Thing","listKind":"ThingList","shortNames":["th"]},"versions":[{"name":"v1","served":true,
"storage":true,"subresources":{"status":{},"scale":{"specReplicasPath":".spec.replicas","statusReplicasPath":
".status.replicas"}},"additionalPrinterColumns":[{"name":"N","type":"integer","jsonPath":".spec.replicas"}],
"selectableFields":[{"jsonPath":".spec.color"}],"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{
"type":"object","required":["replicas"],"x-kubernetes-validations":[{"rule":"self.replicas < 9","message":"m"}],
"properties":{"replicas":{"type":"integer","minimum":1,"default":2,"format":"int32"},"color":{"type":"string","enum":
["red","blue"],"maxLength":9,"pattern":"^[a-z]+$"},"list":{"type":"array","x-kubernetes-list-type":"map",
"x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string"},
"v":{"x-kubernetes-int-or-string":true}}}},"any":{"type":"object","x-kubernetes-preserve-unknown-fields":true},
"map":{"type":"object","additionalProperties":{"type":"string","format":"date-time"}},"one":{"type":"object",
"oneOf":[{"required":["a"]},{"required":["b"]}],"properties":{"a":{"type":"number"},"b":{"type":"boolean",
"nullable":true}}}}},"status":{"type":"object","properties":{"replicas":{"type":"integer"}}}}}}}]},"status":
{"conditions":[{"type":"NamesAccepted","status":"True"}]}},{"apiVersion":"example.com/v1","kind":"Thing","metadata":
{"name":"a"},"spec":{"replicas":3,"color":"red","list":[{"k":"x","v":1}],"any":{"x":[1]},"map":{"a":
"2026-01-01T00:00:00Z"},"one":{"a":1.5}}}]"#;

pub const SCHEMA: Target = Target {
    name: "custom-schema",
    seeds: &[DEFINITION],
    words: &[
        "type",
        "object",
        "array",
        "properties",
        "items",
        "required",
        "default",
        "enum",
        "pattern",
        "(a*)*$",
        "oneOf",
        "anyOf",
        "allOf",
        "not",
        "nullable",
        "format",
        "additionalProperties",
        "x-kubernetes-validations",
        "rule",
        "x-kubernetes-list-type",
        "set",
        "map",
        "atomic",
        "x-kubernetes-list-map-keys",
        "maxItems",
        "minimum",
        "maximum",
        "multipleOf",
        "uniqueItems",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "$ref",
        "x-kubernetes-int-or-string",
        "spec",
        "metadata",
        "self.all(x, true)",
    ],
    run: |bytes| {
        let Some((definition, object)) = pair(bytes) else {
            return;
        };
        let Ok(mut definition) = Definition.decode(definition) else {
            return;
        };
        Definition.default(&mut definition);
        let accepted = Definition.validate_create(&definition).is_empty();
        // A refused definition must be processed without a panic as well, because it may be stored already.
        for version in served_versions(&definition) {
            let Ok(mut object) = version.kind.decode(object.clone()) else {
                continue;
            };
            version.kind.default(&mut object);
            if accepted && version.kind.validate_create(&object).is_empty() {
                version.kind.validate_update(&object, &object);
                version.kind.row(&object, jiff::Timestamp::UNIX_EPOCH);
            }
            let schema = openapi_documents::Schema::custom(&version.kind.info(), &version.schema);
            let info = version.kind.info();
            schema.unknown_fields(info.group, info.version, info.kind, &object);
            Schema::parse(&version.schema);
        }
    },
};

pub const ANNOTATIONS: Target = Target {
    name: "annotations",
    // JSON in annotations, for its decoders.
    seeds: &[
        br#"[{"type":"Pods","pods":{"metricName":"m","targetAverageValue":"1k","selector":{"matchLabels":{"a":"b"}}}}]"#,
        br#"{"scaleUp":{"policies":[{"type":"Pods","value":4,"periodSeconds":15}],"selectPolicy":"Max"}}"#,
        br#"{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"w"},"spec":{"replicas":2,"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
    ],
    words: &["type", "Object", "Resource", "External", "metricName", "target", "spec", "containers", "name", "null"],
    run: |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        let names = ["metrics", "current-metrics", "behavior", "conditions"];
        let annotations: Map<String, Value> = names
            .iter()
            .map(|name| (format!("autoscaling.alpha.kubernetes.io/{name}"), text.into()))
            .collect();
        let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h", "annotations": annotations},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "StatefulSet", "name": "w"}}});
        let kinds = resource_kinds::all(&ClusterConfig::default());
        for kind in kinds.iter().filter(|kind| kind.info().kind == "HorizontalPodAutoscaler") {
            let Ok(mut object) = kind.decode(scaler.clone()) else {
                continue;
            };
            kind.default(&mut object);
            kind.validate_create(&object);
        }
        let last = "kubectl.kubernetes.io/last-applied-configuration";
        let live = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "w", "annotations": {last: text}}, "spec": {"replicas": 2}});
        let config = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "w"}, "spec": {"replicas": 3}});
        let set = openapi_documents::Schema::published().lookup("apps", "v1", "StatefulSet");
        let writer = Writer { manager: "kubectl", api_version: "apps/v1", subresource: "",
            now: "2026-01-01T00:00:00Z" };
        if let Some(set) = set {
            let _refused = apply::apply(Some(&live), &config, set, &writer, OwnableFields::Everything, true).is_err();
        }
    },
};

pub const JSON_PATH: Target = Target {
    name: "json-path",
    seeds: &[
        b".spec.replicas",
        b".status.conditions[?(@.type==\"Ready\")].status",
        b".a['b.c'][0][*]",
        b"$.x..y",
    ],
    words: &[
        ".", "[", "]", "*", "?", "(@.", "==", "'", "\"", "\\", "..", "[-1]", "[0:2]", "$",
    ],
    run: |bytes| {
        let Some(path) = std::str::from_utf8(bytes).ok().and_then(JsonPath::parse) else {
            return;
        };
        let mut value = json!({"spec": {"replicas": 1}, "a": {"b.c": [[1]]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        path.all(&value);
        path.set(&mut value, json!(2));
    },
};
