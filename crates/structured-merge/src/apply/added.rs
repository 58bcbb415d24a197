//! The fields of a new object, written as `fieldsV1` in one pass over the object, without building a set.
//!
//! The result equals the comparison with an empty object ([`compare`](super::compare::compare)); the rules of that
//! module for absent values also apply here.

use json_tree::Value;

use super::OwnableFields;
use super::compare::{AbsentValue, stand_in};
use super::form::MergeForm;
use super::items;
use super::path::{PathElement, push_field, push_key};
use super::track::{IDENTITY, SET_BY_SERVER};

/// The fields of an object that have an owner, as the JSON text of `fieldsV1`; `None` if there are no such fields.
pub(super) fn fields_v1(
    form: MergeForm<'_>,
    object: &Value,
    reach: OwnableFields<'_>,
) -> Option<String> {
    if !form.has_entries() {
        return None;
    }
    let mut out = String::with_capacity(1024);
    out.push('{');
    let start = out.len();
    each_entry(object, |name, value| {
        if reach.has(name) {
            let is_metadata = name == "metadata";
            let (entry, field) = form.entry(name);
            let before = stand_in(Some(AbsentValue::Object), field);
            let node = Node {
                is_owned: !IDENTITY.contains(&name),
                ignored: if is_metadata { &SET_BY_SERVER } else { &[] },
                ..Node::new(entry, before)
            };
            node.write(value, &mut out, |out| push_field(out, name));
        }
    });
    let is_empty = out.len() == start;
    end(&mut out);
    (!is_empty).then_some(out)
}

/// The merge form of a value, with the rules for its ownership.
struct Node<'a> {
    form: MergeForm<'a>,
    /// The value in an empty object.
    before: Option<AbsentValue>,
    /// Whether the value itself may have an owner, in addition to the fields below it.
    is_owned: bool,
    /// The direct fields that have no owner.
    ignored: &'static [&'static str],
}

impl<'a> Node<'a> {
    fn new(form: MergeForm<'a>, before: Option<AbsentValue>) -> Self {
        Self {
            form,
            before,
            is_owned: true,
            ignored: &[],
        }
    }

    /// Whether the fields below a value have separate owners.
    fn has_parts(&self, value: &Value) -> bool {
        match value {
            Value::Array(list) => {
                let is_comparable = self.before != Some(AbsentValue::Object);
                self.form.is_list() && !list.is_empty() && is_comparable
            }
            Value::Object(map) => self.form.has_entries() && !map.is_empty(),
            _ => false,
        }
    }

    /// Whether a value is a member of the set.
    fn is_member(&self, value: &Value) -> bool {
        self.is_owned
            && match self.before {
                None => true,
                Some(_) if self.has_parts(value) => false,
                Some(AbsentValue::Null) => !value.is_null(),
                Some(AbsentValue::Object) => value.as_object().is_none_or(|map| !map.is_empty()),
            }
    }

    /// Writes the node of a value, with a trailing comma, if the value or a field below it is a member.
    fn write(&self, value: &Value, out: &mut String, push_step: impl FnOnce(&mut String)) {
        let start = out.len();
        push_step(out);
        out.push_str(":{");
        let is_member = self.is_member(value);
        let inner = out.len();
        if is_member {
            out.push_str("\".\":{},");
        }
        let below = out.len();
        if self.has_parts(value) {
            self.write_parts(value, out);
        }
        match (out.len() == below, is_member) {
            (true, false) => return out.truncate(start),
            (true, true) => out.truncate(inner),
            (false, _) => {}
        }
        end(out);
        out.push(',');
    }

    fn write_parts(&self, value: &Value, out: &mut String) {
        match value {
            Value::Array(list) => {
                let steps = list.iter().filter_map(|element| {
                    let step = items::step(&self.form, element).ok()?;
                    Some((step, element))
                });
                let mut elements: Vec<(PathElement<'_>, &Value)> = steps.collect();
                elements.sort_by(|(one, _), (other, _)| one.cmp(other));
                for same in elements.chunk_by(|(one, _), (other, _)| one == other) {
                    // Several elements with one key count as one atomic value.
                    let form = match same {
                        [_] => self.form.element(),
                        _ => MergeForm::Leaf,
                    };
                    if let [(step, element), ..] = same {
                        Node::new(form, None).write(element, out, |out| push_key(out, step));
                    }
                }
            }
            object => each_entry(object, |name, value| {
                let (entry, field) = self.form.entry(name);
                let node = Node {
                    is_owned: !self.ignored.contains(&name),
                    ..Node::new(entry, stand_in(self.before, field))
                };
                node.write(value, out, |out| push_field(out, name));
            }),
        }
    }
}

/// Closes an object whose members have a trailing comma.
fn end(out: &mut String) {
    if out.ends_with(',') {
        out.pop();
    }
    out.push('}');
}

/// Visits the entries of an object, sorted by name.
fn each_entry<'o>(object: &'o Value, mut visit: impl FnMut(&'o str, &'o Value)) {
    let Value::Object(map) = object else { return };
    if map.keys().is_sorted() {
        map.iter().for_each(|(name, value)| visit(name, value));
        return;
    }
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    for (name, value) in entries {
        visit(name, value);
    }
}

#[cfg(test)]
mod tests {
    use json_tree::{Map, json};
    use openapi_documents::Schema;

    use super::super::compare::compare;
    use super::super::track::strip;
    use super::*;

    /// The fields according to the comparison.
    fn compared(form: MergeForm<'_>, object: &Value, reach: OwnableFields<'_>) -> Option<String> {
        let nothing = Value::Object(Map::new());
        let mut changes = compare(form, &nothing, object);
        changes.retain_top(|field| reach.has(field));
        let set = strip(changes.split().0);
        (!set.is_empty()).then(|| set.to_fields_v1())
    }

    fn is_same(group: &str, kind: &str, object: &Value) -> Option<String> {
        let object_type = Schema::published().lookup(group, "v1", kind).unwrap();
        let form = MergeForm::of_type(object_type);
        for reach in [
            OwnableFields::Everything,
            OwnableFields::AllBut(&["status"]),
            OwnableFields::Only(&["metadata", "status"]),
        ] {
            let text = fields_v1(form, object, reach);
            assert_eq!(text, compared(form, object, reach), "{object}");
        }
        fields_v1(form, object, OwnableFields::Everything)
    }

    #[test]
    fn the_fields_are_those_of_a_comparison() {
        let container = json!({"name": "b", "image": "i", "resources": {}, "env": [
            {"name": "B", "value": "1"}, {"name": "A"}, {"name": "B"}], "args": ["x"],
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80}],
            "securityContext": {"capabilities": {"add": []}}});
        let pod = json!({"kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "p", "uid": "u", "labels": {"b\"": "1", "a": "2"},
                "annotations": {}, "finalizers": ["x/b", "x/a", "x/b", {}, null],
                "ownerReferences": [{"uid": "1", "name": "o"}, {"name": "none"}]},
            "spec": {"tolerations": [{"key": "a"}], "containers": [container, {"name": "a"}, 5],
                "nodeSelector": {"z": "1", "y": "2"}, "affinity": {"nodeAffinity": {}},
                "securityContext": {}, "volumes": [{"name": "v", "emptyDir": {}}],
                "hostAliases": [], "other": {"a": [1]}, "topologySpreadConstraints": null},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "podIPs": []}});
        let text = is_same("", "Pod", &pod).unwrap();
        let fields: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(fields["f:metadata"]["f:labels"]["."], json!({}));
        assert_eq!(fields["f:metadata"]["f:name"], Value::Null);
        for odd in [
            json!({}),
            json!({"kind": "Pod", "metadata": {}}),
            json!({"metadata": {"labels": null}, "spec": null}),
            json!({"metadata": null, "spec": {}, "status": {}}),
            json!({"spec": {"containers": []}}),
            json!({"spec": {"containers": null}}),
            json!({"spec": {"containers": {"a": 1}, "volumes": 1}, "metadata": [1]}),
            json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}, {}]}}),
        ] {
            is_same("", "Pod", &odd);
        }
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod["spec"]});
        let claim = json!({"metadata": {"name": "d"}, "spec": {}, "status": {}});
        let set = json!({"metadata": {"name": "w", "namespace": "d"}, "spec": {"replicas": 1,
            "selector": {"matchLabels": {"a": "b"}}, "template": template, "serviceName": "",
            "volumeClaimTemplates": [claim], "updateStrategy": {"rollingUpdate": {}}},
            "status": {"replicas": 0}});
        is_same("apps", "StatefulSet", &set);
        for value in [json!({}), Value::Null, json!({"selector": {}})] {
            is_same(
                "apps",
                "StatefulSet",
                &json!({"spec": value, "status": value}),
            );
        }
        let ports =
            json!([{"port": 80, "name": "a"}, {"port": 80, "protocol": "UDP"}, {"port": 81}]);
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": ports,
            "selector": {"a": "b"}, "clusterIPs": ["10.0.0.1"]}});
        is_same("", "Service", &service);
        is_same(
            "",
            "ConfigMap",
            &json!({"data": {"b": "1", "a": "2"}, "immutable": true}),
        );
        is_same("", "Secret", &json!({"data": {}, "type": "Opaque"}));
    }
}
