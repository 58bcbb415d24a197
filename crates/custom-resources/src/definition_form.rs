//! The stored form of a definition: known fields only, without nulls and without the empty values that Kubernetes'
//! types leave out.

use json_tree::{Map, Value};

/// The form of a value.
enum Form {
    /// A text, a number or a boolean.
    Scalar,
    /// JSON of the user: a default, an example.
    Free,
    List(&'static Form),
    Map(&'static Form),
    Object(&'static [Field]),
    Schema,
    /// `additionalProperties`.
    SchemaOrBool,
    /// `items`.
    SchemaOrList,
    /// `dependencies`.
    SchemaOrNames,
}

/// A field of an object.
struct Field {
    name: &'static str,
    form: Form,
    /// Whether an empty value (`false`, `""`, `[]`, `{}`, `0`) counts as absent.
    is_omitted: bool,
}

/// A field that counts as absent if it is empty.
const fn omitted(name: &'static str, form: Form) -> Field {
    Field {
        name,
        form,
        is_omitted: true,
    }
}

/// A field that is stored with any value.
const fn stored(name: &'static str, form: Form) -> Field {
    Field {
        name,
        form,
        is_omitted: false,
    }
}

const SCALARS: Form = Form::List(&Form::Scalar);
const SCHEMAS: Form = Form::List(&Form::Schema);
const NAMED_SCHEMAS: Form = Form::Map(&Form::Schema);

static SCHEMA: [Field; 44] = [
    omitted("id", Form::Scalar),
    omitted("$schema", Form::Scalar),
    stored("$ref", Form::Scalar),
    omitted("description", Form::Scalar),
    omitted("type", Form::Scalar),
    omitted("format", Form::Scalar),
    omitted("title", Form::Scalar),
    stored("default", Form::Free),
    stored("maximum", Form::Scalar),
    omitted("exclusiveMaximum", Form::Scalar),
    stored("minimum", Form::Scalar),
    omitted("exclusiveMinimum", Form::Scalar),
    stored("maxLength", Form::Scalar),
    stored("minLength", Form::Scalar),
    omitted("pattern", Form::Scalar),
    stored("maxItems", Form::Scalar),
    stored("minItems", Form::Scalar),
    omitted("uniqueItems", Form::Scalar),
    stored("multipleOf", Form::Scalar),
    omitted("enum", Form::List(&Form::Free)),
    stored("maxProperties", Form::Scalar),
    stored("minProperties", Form::Scalar),
    omitted("required", SCALARS),
    stored("items", Form::SchemaOrList),
    omitted("allOf", SCHEMAS),
    omitted("oneOf", SCHEMAS),
    omitted("anyOf", SCHEMAS),
    stored("not", Form::Schema),
    omitted("properties", NAMED_SCHEMAS),
    stored("additionalProperties", Form::SchemaOrBool),
    omitted("patternProperties", NAMED_SCHEMAS),
    omitted("dependencies", Form::Map(&Form::SchemaOrNames)),
    stored("additionalItems", Form::SchemaOrBool),
    omitted("definitions", NAMED_SCHEMAS),
    stored(
        "externalDocs",
        Form::Object(&[
            omitted("description", Form::Scalar),
            omitted("url", Form::Scalar),
        ]),
    ),
    stored("example", Form::Free),
    omitted("nullable", Form::Scalar),
    stored("x-kubernetes-preserve-unknown-fields", Form::Scalar),
    omitted("x-kubernetes-embedded-resource", Form::Scalar),
    omitted("x-kubernetes-int-or-string", Form::Scalar),
    omitted("x-kubernetes-list-map-keys", SCALARS),
    stored("x-kubernetes-list-type", Form::Scalar),
    stored("x-kubernetes-map-type", Form::Scalar),
    omitted(
        "x-kubernetes-validations",
        Form::List(&Form::Object(&[
            stored("rule", Form::Scalar),
            omitted("message", Form::Scalar),
            omitted("messageExpression", Form::Scalar),
            stored("reason", Form::Scalar),
            omitted("fieldPath", Form::Scalar),
            stored("optionalOldSelf", Form::Scalar),
        ])),
    ),
];

const NAMES: Form = Form::Object(&[
    stored("plural", Form::Scalar),
    omitted("singular", Form::Scalar),
    omitted("shortNames", SCALARS),
    stored("kind", Form::Scalar),
    omitted("listKind", Form::Scalar),
    omitted("categories", SCALARS),
]);

const VERSION: Form = Form::Object(&[
    stored("name", Form::Scalar),
    stored("served", Form::Scalar),
    stored("storage", Form::Scalar),
    omitted("deprecated", Form::Scalar),
    stored("deprecationWarning", Form::Scalar),
    stored(
        "schema",
        Form::Object(&[stored("openAPIV3Schema", Form::Schema)]),
    ),
    stored(
        "subresources",
        Form::Object(&[
            stored("status", Form::Object(&[])),
            stored(
                "scale",
                Form::Object(&[
                    stored("specReplicasPath", Form::Scalar),
                    stored("statusReplicasPath", Form::Scalar),
                    stored("labelSelectorPath", Form::Scalar),
                ]),
            ),
        ]),
    ),
    omitted(
        "additionalPrinterColumns",
        Form::List(&Form::Object(&[
            stored("name", Form::Scalar),
            stored("type", Form::Scalar),
            omitted("format", Form::Scalar),
            omitted("description", Form::Scalar),
            omitted("priority", Form::Scalar),
            stored("jsonPath", Form::Scalar),
        ])),
    ),
    omitted(
        "selectableFields",
        Form::List(&Form::Object(&[stored("jsonPath", Form::Scalar)])),
    ),
]);

const CONVERSION: Form = Form::Object(&[
    stored("strategy", Form::Scalar),
    stored(
        "webhook",
        Form::Object(&[
            stored(
                "clientConfig",
                Form::Object(&[
                    stored("url", Form::Scalar),
                    stored(
                        "service",
                        Form::Object(&[
                            stored("namespace", Form::Scalar),
                            stored("name", Form::Scalar),
                            stored("path", Form::Scalar),
                            stored("port", Form::Scalar),
                        ]),
                    ),
                    omitted("caBundle", Form::Scalar),
                ]),
            ),
            stored("conversionReviewVersions", SCALARS),
        ]),
    ),
]);

static DEFINITION: Form = Form::Object(&[
    stored("apiVersion", Form::Scalar),
    stored("kind", Form::Scalar),
    stored("metadata", Form::Free),
    stored(
        "spec",
        Form::Object(&[
            stored("group", Form::Scalar),
            stored("names", NAMES),
            stored("scope", Form::Scalar),
            stored("versions", Form::List(&VERSION)),
            stored("conversion", CONVERSION),
            omitted("preserveUnknownFields", Form::Scalar),
        ]),
    ),
    stored(
        "status",
        Form::Object(&[
            stored(
                "conditions",
                Form::List(&Form::Object(&[
                    stored("type", Form::Scalar),
                    stored("status", Form::Scalar),
                    stored("lastTransitionTime", Form::Scalar),
                    omitted("reason", Form::Scalar),
                    omitted("message", Form::Scalar),
                    omitted("observedGeneration", Form::Scalar),
                ])),
            ),
            stored("acceptedNames", NAMES),
            stored("storedVersions", SCALARS),
            omitted("observedGeneration", Form::Scalar),
        ]),
    ),
]);

/// Removes what the stored form of a definition does not have. Values of wrong types stay; the decoder refuses them.
pub(crate) fn bring_into_form(definition: &mut Value) {
    apply(definition, &DEFINITION);
}

fn apply(value: &mut Value, form: &Form) {
    match (form, value) {
        (Form::Object(fields), Value::Object(map)) => apply_fields(map, fields),
        (
            Form::Schema | Form::SchemaOrBool | Form::SchemaOrList | Form::SchemaOrNames,
            Value::Object(map),
        ) => apply_fields(map, &SCHEMA),
        (Form::List(inner), Value::Array(items)) => {
            for item in items {
                apply_element(item, inner);
            }
        }
        (Form::SchemaOrList, Value::Array(items)) => {
            for item in items {
                apply_element(item, &Form::Schema);
            }
        }
        (Form::Map(inner), Value::Object(map)) => {
            for (_, item) in map.iter_mut() {
                apply_element(item, inner);
            }
        }
        _ => {}
    }
}

/// A null in a list or a map of objects is an empty object.
fn apply_element(value: &mut Value, form: &Form) {
    if value.is_null() && matches!(form, Form::Object(_) | Form::Schema) {
        *value = Value::Object(Map::new());
    }
    apply(value, form);
}

fn apply_fields(map: &mut Map, fields: &[Field]) {
    map.retain(|name, value| {
        let Some(field) = fields.iter().find(|field| field.name == name.as_str()) else {
            cov_mark::hit!(findings_2_e13);
            return false;
        };
        if value.is_null() {
            return false;
        }
        apply(value, &field.form);
        !(field.is_omitted && is_empty(value))
    });
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    // findings-2 E13, K9
    #[test]
    fn a_stored_definition_has_known_fields_without_nulls() {
        cov_mark::check!(findings_2_e13);
        let schema = json!({"type": "object", "description": "", "nullable": false, "title": null,
            "requred": ["a"], "required": [], "enum": null, "maximum": 0, "x-kubernetes-preserve-unknown-fields": false,
            "default": {"any": null}, "example": null, "enum ": 1, "externalDocs": {"url": "a", "x": 1},
            "properties": {"a": null, "b": {"type": "array", "items": {"type": "string", "no": 1, "default": null},
                "enum": [null, ""]},
                "c": {"additionalProperties": false}, "d": {"additionalProperties": {"type": "string", "x": 1}},
                "e": {"allOf": [{"x": 1, "minLength": 0}], "not": {"x": 1}},
                "f": {"dependencies": {"a": ["b"]}, "patternProperties": {}}},
            "x-kubernetes-validations": [
                {"rule": "", "message": "", "fieldPath": "", "optionalOldSelf": false, "x": 1}]});
        let mut definition = json!({"metadata": {"name": "a"}, "extra": 1, "spec": {
            "group": "", "scope": null, "preserveUnknownFields": false, "validation": {},
            "names": {"plural": "", "shortNames": [], "x": 1},
            "versions": [null, {"name": "v1", "served": false, "deprecated": false, "deprecationWarning": "",
                "schema": {"openAPIV3Schema": schema}, "selectableFields": [],
                "subresources": {"status": {"x": 1}, "scale": {"labelSelectorPath": ""}},
                "additionalPrinterColumns": [{"priority": 0, "JSONPath": ".a", "jsonPath": ".a"}]}]}});
        bring_into_form(&mut definition);
        let schema = json!({"type": "object", "maximum": 0, "x-kubernetes-preserve-unknown-fields": false,
            "default": {"any": null}, "externalDocs": {"url": "a"},
            "properties": {"a": {}, "b": {"type": "array", "items": {"type": "string"}, "enum": [null, ""]},
                "c": {"additionalProperties": false}, "d": {"additionalProperties": {"type": "string"}},
                "e": {"allOf": [{"minLength": 0}], "not": {}}, "f": {"dependencies": {"a": ["b"]}}},
            "x-kubernetes-validations": [{"rule": "", "optionalOldSelf": false}]});
        let expected = json!({"metadata": {"name": "a"}, "spec": {"group": "", "names": {"plural": ""},
            "versions": [{}, {"name": "v1", "served": false, "deprecationWarning": "",
                "schema": {"openAPIV3Schema": schema},
                "subresources": {"status": {}, "scale": {"labelSelectorPath": ""}},
                "additionalPrinterColumns": [{"jsonPath": ".a"}]}]}});
        assert_eq!(definition, expected);
    }
}
