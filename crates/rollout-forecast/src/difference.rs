//! The differences of two objects, field by field.

use json_tree::Value;
use resource_kinds::annotations::LAST_APPLIED;
use serde::Serialize;

/// A field that two objects have not in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The path of the field; elements with a name are named: `spec.template.spec.containers[db].image`.
    pub path: String,
    /// The value before; absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// The fields of the metadata that a user decides.
const METADATA: [&str; 2] = ["labels", "annotations"];

/// The differences in the parts that a user decides.
pub fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut all = Vec::new();
    for field in METADATA {
        let (old, new) = (metadata(before, field), metadata(after, field));
        let path = format!("metadata.{field}");
        compare(&path, old.as_ref(), new.as_ref(), &mut all);
    }
    compare("spec", before.get("spec"), after.get("spec"), &mut all);
    all
}

/// Labels or annotations, without the annotation of `kubectl apply`, whose text has the whole object once more.
fn metadata(object: &Value, field: &str) -> Option<Value> {
    let mut map = object.get("metadata")?.get(field)?.as_object()?.clone();
    map.shift_remove(LAST_APPLIED);
    (!map.is_empty()).then_some(Value::Object(map))
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, all: &mut Vec<Difference>) {
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for (key, value) in old {
                compare(&field(path, key), Some(value), new.get(key), all);
            }
            for (key, value) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                compare(&field(path, key), None, Some(value), all);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => match (names(old), names(new)) {
            (Some(old_names), Some(new_names)) => {
                let find = |all: &[&str], name: &str| all.iter().position(|other| *other == name);
                for (name, value) in old_names.iter().zip(old) {
                    let other = find(&new_names, name).map(|index| &new[index]);
                    compare(&format!("{path}[{name}]"), Some(value), other, all);
                }
                for (name, value) in new_names.iter().zip(new) {
                    if find(&old_names, name).is_none() {
                        compare(&format!("{path}[{name}]"), None, Some(value), all);
                    }
                }
                let common = |names: &[&str], others: &[&str]| -> Vec<String> {
                    let names = names.iter().filter(|name| others.contains(name));
                    names.map(|name| (*name).to_owned()).collect()
                };
                let (was, is) = (
                    common(&old_names, &new_names),
                    common(&new_names, &old_names),
                );
                // The order of the elements is a part of the template, too.
                if was != is {
                    all.push(Difference {
                        path: format!("{path} (order)"),
                        before: Some(was.into()),
                        after: Some(is.into()),
                    });
                }
            }
            _ => push(path, before, after, all),
        },
        _ => push(path, before, after, all),
    }
}

fn push(path: &str, before: Option<&Value>, after: Option<&Value>, all: &mut Vec<Difference>) {
    if before != after {
        all.push(Difference {
            path: path.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
        });
    }
}

/// The path of a field. A key with dots is quoted.
fn field(path: &str, key: &str) -> String {
    let is_plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match is_plain {
        true => format!("{path}.{key}"),
        false => format!("{path}[{key:?}]"),
    }
}

/// The name of an element, which an object such as a claim template has in its metadata.
fn name(element: &Value) -> Option<&str> {
    let name = element
        .get("name")
        .or_else(|| element.get("metadata")?.get("name"));
    name?.as_str()
}

/// The names of the elements of a list; `None` if they have none, or not each its own.
fn names(elements: &[Value]) -> Option<Vec<&str>> {
    let mut names: Vec<&str> = Vec::new();
    for element in elements {
        let name = name(element).filter(|name| !names.contains(name))?;
        names.push(name);
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use json_tree::json;

    fn lines(before: Value, after: Value) -> Vec<String> {
        let text = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), Value::to_string);
        differences(&before, &after)
            .iter()
            .map(|one| format!("{} {} {}", one.path, text(&one.before), text(&one.after)))
            .collect()
    }

    #[test]
    fn elements_are_compared_by_name() {
        let set = |containers: Value, templates: Value| {
            json!({"spec": {"template": {"spec": {"containers": containers}},
                "volumeClaimTemplates": templates, "replicas": 3}, "status": {"replicas": 1}})
        };
        let template = |size: &str| json!([{"metadata": {"name": "data"}, "spec": {"size": size}}]);
        let before = set(
            json!([{"name": "db", "image": "a", "args": ["x"]}]),
            template("1Gi"),
        );
        let after = set(
            json!([{"name": "log", "image": "l"}, {"name": "db", "image": "b", "args": ["y", "z"]}]),
            template("2Gi"),
        );
        assert_eq!(
            lines(before, after),
            [
                "spec.template.spec.containers[db].image \"a\" \"b\"",
                "spec.template.spec.containers[db].args [\"x\"] [\"y\",\"z\"]",
                "spec.template.spec.containers[log] - {\"name\":\"log\",\"image\":\"l\"}",
                "spec.volumeClaimTemplates[data].spec.size \"1Gi\" \"2Gi\"",
            ]
        );
    }

    #[test]
    fn the_order_of_elements_counts() {
        let env = |all: Value| json!({"spec": {"env": all}});
        let (a, b) = (json!({"name": "A"}), json!({"name": "B"}));
        let lines = lines(env(json!([a, b])), env(json!([b, a])));
        assert_eq!(lines, ["spec.env (order) [\"A\",\"B\"] [\"B\",\"A\"]"]);
    }

    #[test]
    fn labels_count_and_the_note_of_kubectl_does_not() {
        let meta = |value: &str| {
            json!({"metadata": {"resourceVersion": value,
                "annotations": {LAST_APPLIED: value, "a.b/c": value}, "labels": {"app": value}}})
        };
        assert_eq!(
            lines(meta("1"), meta("2")),
            [
                "metadata.labels.app \"1\" \"2\"",
                "metadata.annotations[\"a.b/c\"] \"1\" \"2\"",
            ]
        );
    }
}
