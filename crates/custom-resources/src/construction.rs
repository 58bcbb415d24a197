//! Object construction in CEL: `Object{spec: Object.spec{replicas: 3}}` for a part of a new object, and
//! `JSONPatch{op: 'remove', path: '/spec/x'}`.
//!
//! Types are not declared: each name that is `Object`, or starts with `Object.`, is a type. The conversion to JSON
//! checks that the type name of each part fits its path in the object.

use std::collections::{BTreeMap, BTreeSet};

use cel::common::types::{CelOptional, CelString, CelStruct, Type};
use cel::common::value::{CowVal, Val};
use cel::objects::Key;
use cel::{Env, ExecutionError, StructType, Value as Cel};
use json_tree::{Map, Value};

use crate::cel_library::environment;
use crate::expression_error::ExpressionError;

/// The type of one operation of a patch.
const PATCH: &str = "JSONPatch";
const PATCH_FIELDS: [&str; 4] = ["op", "path", "from", "value"];
/// The type of a whole object.
const OBJECT: &str = "Object";

/// An environment in which values of these types can be constructed.
///
/// # Errors
/// The first name that is not such a type.
pub(crate) fn environment_with(names: &BTreeSet<String>) -> Result<Env, ExpressionError> {
    let mut environment = environment();
    for name in names {
        if name != PATCH && name != OBJECT && !name.starts_with("Object.") {
            return Err(ExpressionError::Undeclared(name.clone()));
        }
        environment
            .add_type(Constructed(Type::new_struct(name.clone())))
            .map_err(|error| ExpressionError::Syntax(error.to_string()))?;
    }
    cel::add_overload!(
        &mut environment,
        fn escape_key: (CelString<'_>) -> CelString<'static>,
        name = "jsonpatch.escapeKey"
    )
    .map_err(|error| ExpressionError::Syntax(error.to_string()))?;
    Ok(environment)
}

/// A map key as a segment of a path in a patch.
fn escape_key(key: &CelString<'_>) -> CelString<'static> {
    key.inner().replace('~', "~0").replace('/', "~1").into()
}

/// A type whose values accept any fields.
struct Constructed(Type);

impl StructType for Constructed {
    fn get_type(&self) -> &Type {
        &self.0
    }

    fn new_value<'b, 'v>(
        &self,
        fields: BTreeMap<String, CowVal<'b, 'v>>,
    ) -> Result<Box<dyn Val + 'v>, ExecutionError> {
        let name = self.0.name();
        let mut object = CelStruct::new(name.to_owned());
        for (field, value) in fields {
            if name == PATCH && !PATCH_FIELDS.contains(&field.as_str()) {
                let text = format!("undefined field '{field}'");
                return Err(ExecutionError::function_error(name, text));
            }
            // An optional field `?field: …` may have no value.
            match value.downcast_ref::<CelOptional<'_>>() {
                None => object.add_field_value(field, value),
                Some(optional) => {
                    if let Some(value) = optional.option() {
                        let value = CowVal::Owned(value.clone_as_boxed());
                        object.add_field_value(field, value);
                    }
                }
            }
        }
        Ok(Box::new(object))
    }
}

/// Converts an `Object{…}` to JSON.
///
/// # Errors
/// The value is not an object, a part has the type of another field, or has no JSON form.
pub(crate) fn object(value: &Cel) -> Result<Value, ExpressionError> {
    match value {
        Cel::Struct(object) if object.name() == OBJECT => json(value, OBJECT),
        other => Err(ExpressionError::UnexpectedType {
            expected: "an Object",
            actual: type_name_of(other),
        }),
    }
}

/// Converts a list of `JSONPatch{…}` to JSON.
///
/// # Errors
/// As [`object`].
pub(crate) fn patch(value: &Cel) -> Result<Value, ExpressionError> {
    let Cel::List(list) = value else {
        return Err(ExpressionError::UnexpectedType {
            expected: "a list of JSONPatch",
            actual: type_name_of(value),
        });
    };
    let operations = list.iter().map(|operation| match operation {
        Cel::Struct(operation) if operation.name() == PATCH => fields(operation, |field, value| {
            // The value has a constructed type, or is a plain value.
            let path = match value {
                Cel::Struct(part) => part.name().to_owned(),
                _ => field.to_owned(),
            };
            json(value, &path)
        }),
        other => Err(ExpressionError::UnexpectedType {
            expected: "a JSONPatch",
            actual: type_name_of(other),
        }),
    });
    operations.collect()
}

fn type_name_of(value: &Cel) -> String {
    match value {
        Cel::Struct(structure) => structure.name().to_owned(),
        other => other.type_of().to_string(),
    }
}

fn fields(
    structure: &CelStruct<'_>,
    mut to_json: impl FnMut(&str, &Cel) -> Result<Value, ExpressionError>,
) -> Result<Value, ExpressionError> {
    let fields = structure.field_values().into_iter().map(|(name, value)| {
        let value: Cel = value.as_ref().try_into().map_err(evaluation)?;
        let value = to_json(&name, &value)?;
        Ok((name, value))
    });
    fields
        .collect::<Result<Map<_, _>, ExpressionError>>()
        .map(Value::Object)
}

fn evaluation(error: ExecutionError) -> ExpressionError {
    ExpressionError::Evaluation(error.to_string())
}

/// Converts a value to JSON; `path` is the type name that an object must have here.
fn json(value: &Cel, path: &str) -> Result<Value, ExpressionError> {
    match value {
        Cel::Null => Ok(Value::Null),
        Cel::Bool(flag) => Ok((*flag).into()),
        Cel::Int(number) => Ok((*number).into()),
        Cel::UInt(number) => Ok((*number).into()),
        Cel::Float(number) => json_tree::Number::from_f64(*number)
            .map(Value::Number)
            .ok_or_else(|| ExpressionError::NotJson(format!("{number} is no number in JSON"))),
        Cel::String(text) => Ok(text.as_str().into()),
        Cel::Timestamp(time) => {
            let seconds = chrono::SecondsFormat::AutoSi;
            Ok(time.to_utc().to_rfc3339_opts(seconds, true).into())
        }
        Cel::List(list) => list.iter().map(|item| json(item, path)).collect(),
        Cel::Map(map) => {
            let entries = map.map.iter().map(|(key, value)| match key {
                Key::String(key) => Ok((key.as_ref().clone(), json(value, path)?)),
                other => {
                    let text = format!("the key {other:?} of a map is no text");
                    Err(ExpressionError::NotJson(text))
                }
            });
            let entries: Result<BTreeMap<String, Value>, ExpressionError> = entries.collect();
            Ok(Value::Object(entries?.into_iter().collect()))
        }
        Cel::Struct(structure) => {
            if structure.name() != path {
                return Err(ExpressionError::UnexpectedTypeName {
                    actual: structure.name().to_owned(),
                    expected: path.to_owned(),
                });
            }
            fields(structure, |field, value| {
                json(value, &format!("{path}.{field}"))
            })
        }
        other => {
            let text = format!("a {} has no form in JSON", other.type_of());
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
