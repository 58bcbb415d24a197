//! Object construction in CEL: `Object{spec: Object.spec{replicas: 3}}` for a part of a new object, and
//! `JSONPatch{op: 'remove', path: '/spec/x'}`.
//!
//! Types are not declared: each name that is `Object`, or starts with `Object.`, is a type. The conversion to JSON
//! checks that the type name of each part fits its path in the object.

use cel_evaluator::{Key, Object, Value as Cel};
use json_tree::{Map, Value};

use crate::expression_error::ExpressionError;

/// The type of one operation of a patch.
const PATCH: &str = "JSONPatch";
const PATCH_FIELDS: [&str; 4] = ["op", "path", "from", "value"];
/// The type of a whole object.
const OBJECT: &str = "Object";

/// Whether values of the type with this name can be constructed.
pub(crate) fn is_type(name: &str) -> bool {
    name == PATCH || name == OBJECT || name.starts_with("Object.")
}

/// Converts an `Object{…}` to JSON.
///
/// # Errors
/// The value is not an object, a part has the type of another field, or has no JSON form.
pub(crate) fn object(value: &Cel) -> Result<Value, ExpressionError> {
    match value {
        Cel::Object(object) if &*object.name == OBJECT => json(value, OBJECT),
        other => Err(unexpected("an Object", other)),
    }
}

/// Converts a list of `JSONPatch{…}` to JSON.
///
/// # Errors
/// As [`object`].
pub(crate) fn patch(value: &Cel) -> Result<Value, ExpressionError> {
    let Cel::List(list) = value else {
        return Err(unexpected("a list of JSONPatch", value));
    };
    let operations = list.items.iter().map(|operation| match operation {
        Cel::Object(operation) if &*operation.name == PATCH => fields(operation, |field, value| {
            if !PATCH_FIELDS.contains(&field) {
                let text = format!("undefined field '{field}'");
                return Err(ExpressionError::Evaluation(text));
            }
            // The value has a constructed type, or is a plain value.
            let path = match value {
                Cel::Object(part) => &*part.name,
                _ => field,
            };
            json(value, path)
        }),
        other => Err(unexpected("a JSONPatch", other)),
    });
    operations.collect()
}

fn unexpected(expected: &'static str, actual: &Cel) -> ExpressionError {
    ExpressionError::UnexpectedType {
        expected,
        actual: actual.type_name().to_owned(),
    }
}

fn fields(
    object: &Object,
    to_json: impl Fn(&str, &Cel) -> Result<Value, ExpressionError>,
) -> Result<Value, ExpressionError> {
    let fields = object
        .fields
        .iter()
        .map(|(name, value)| Ok((name.to_string(), to_json(name, value)?)));
    fields
        .collect::<Result<Map<_, _>, ExpressionError>>()
        .map(Value::Object)
}

/// Converts a value to JSON; `path` is the type name that an object must have here.
fn json(value: &Cel, path: &str) -> Result<Value, ExpressionError> {
    match value {
        Cel::Null => Ok(Value::Null),
        Cel::Bool(flag) => Ok((*flag).into()),
        Cel::Int(number) => Ok((*number).into()),
        Cel::Uint(number) => Ok((*number).into()),
        Cel::Double(number) => json_tree::Number::from_f64(*number)
            .map(Value::Number)
            .ok_or_else(|| ExpressionError::NotJson(format!("{number} is no number in JSON"))),
        Cel::String(text) => Ok((&**text).into()),
        Cel::Timestamp(time) => Ok(time.moment.to_string().into()),
        Cel::List(list) => list.items.iter().map(|item| json(item, path)).collect(),
        Cel::Map(map) => {
            let entries = map.iter().map(|(key, value)| match key {
                Key::String(key) => Ok((key.to_string(), json(value, path)?)),
                other => {
                    let text = format!("the key {other:?} of a map is no text");
                    Err(ExpressionError::NotJson(text))
                }
            });
            let entries: Result<Map<String, Value>, ExpressionError> = entries.collect();
            entries.map(Value::Object)
        }
        Cel::Object(object) => {
            if *object.name != *path {
                return Err(ExpressionError::UnexpectedTypeName {
                    actual: object.name.to_string(),
                    expected: path.to_owned(),
                });
            }
            fields(object, |field, value| {
                json(value, &format!("{path}.{field}"))
            })
        }
        other => {
            let text = format!("a {} has no form in JSON", other.type_name());
            Err(ExpressionError::NotJson(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use crate::{EvaluationResult, Expression, ExpressionError, Values};

    fn values() -> Values {
        let mut values = Values::default();
        let object = json!({"metadata": {"name": "a", "labels": {"x/y": "1"}},
            "spec": {"replicas": 2, "names": ["b", "c"]}});
        values.add("object", &object);
        values
    }

    fn result(source: &str) -> Result<EvaluationResult, ExpressionError> {
        Expression::compile_constructing(source, &["object"])?.evaluate(&values())
    }

    fn object(source: &str) -> Result<json_tree::Value, String> {
        let object = result(source).and_then(|result| result.to_object());
        object.map_err(|error| error.to_string())
    }

    fn patched(source: &str) -> Result<json_tree::Value, String> {
        let patch = result(source).and_then(|result| result.to_patch());
        patch.map_err(|error| error.to_string())
    }

    #[test]
    fn objects_are_made_of_typed_parts_lists_and_maps() {
        let source = "Object{metadata: Object.metadata{labels: {'app': object.metadata.name}}, \
             spec: Object.spec{replicas: object.spec.replicas + 1, ratio: 0.5, \
             containers: object.spec.names.map(n, Object.spec.containers{name: n})}}";
        assert_eq!(
            object(source),
            Ok(json!({"metadata": {"labels": {"app": "a"}},
                "spec": {"replicas": 3, "ratio": 0.5,
                    "containers": [{"name": "b"}, {"name": "c"}]}}))
        );
        let chosen = "has(object.spec.paused) ? Object{} : Object{spec: Object.spec{paused: true}}";
        assert_eq!(object(chosen), Ok(json!({"spec": {"paused": true}})));
        let optional = "Object{spec: Object.spec{?a: object.?spec.?replicas, ?b: object.?other}}";
        assert_eq!(object(optional), Ok(json!({"spec": {"a": 2}})));
    }

    #[test]
    fn parts_of_other_places_and_other_values_are_refused() {
        let wrong = object("Object{spec: Object.status{replicas: 1}}").unwrap_err();
        assert!(
            wrong.contains("unexpected type name \"Object.status\", expected \"Object.spec\""),
            "{wrong}"
        );
        let plain = object("{'spec': {'replicas': 1}}").unwrap_err();
        assert_eq!(plain, "expected an Object, found map");
        let part = object("Object.spec{replicas: 1}").unwrap_err();
        assert_eq!(part, "expected an Object, found Object.spec");
        assert!(object("Object{spec: quantity('1')}").is_err());
        assert!(object("Object{spec: {1: 2}}").is_err());
        let stranger = object("acme.Thing{a: 1}").unwrap_err();
        assert_eq!(stranger, "undeclared reference to 'acme.Thing'");
        let rule = Expression::compile_with("Object{} == Object{}", &["object"]);
        assert_eq!(
            rule.unwrap_err(),
            ExpressionError::Undeclared("Object".to_owned())
        );
    }

    #[test]
    fn patches_are_lists_of_operations() {
        let source = "[JSONPatch{op: 'test', path: '/spec/replicas', value: 2}, \
             JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a~/b'), \
             value: 'z'}, JSONPatch{op: 'move', from: '/a', path: '/b'}, \
             JSONPatch{op: 'add', path: '/spec/x', value: Object.spec.x{y: 1}}]";
        assert_eq!(
            patched(source),
            Ok(json!([
                {"op": "test", "path": "/spec/replicas", "value": 2},
                {"op": "add", "path": "/metadata/labels/a~0~1b", "value": "z"},
                {"op": "move", "from": "/a", "path": "/b"},
                {"op": "add", "path": "/spec/x", "value": {"y": 1}},
            ]))
        );
        assert_eq!(patched("[]"), Ok(json!([])));
        assert_eq!(
            patched("Object{}").unwrap_err(),
            "expected a list of JSONPatch, found Object"
        );
        assert_eq!(
            patched("[Object{}]").unwrap_err(),
            "expected a JSONPatch, found Object"
        );
        let field = patched("[JSONPatch{op: 'add', where: '/a'}]").unwrap_err();
        assert!(field.contains("undefined field 'where'"), "{field}");
    }
}
