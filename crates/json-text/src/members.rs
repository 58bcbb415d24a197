//! Access to members of objects in a tree.

use json_tree::Value;

/// The named member of an object; null if there is none.
pub fn member<'v>(value: &'v Value, name: &str) -> &'v Value {
    let member_value = value.as_object().and_then(|map| map.get(name));
    member_value.unwrap_or(&Value::Null)
}

/// The value at a path of names with dots between them; null if there is none.
pub fn descend<'v>(value: &'v Value, names: &str) -> &'v Value {
    let (mut value, mut rest) = (value, names);
    // Names are short, so a loop over their bytes is faster than a string search.
    while let Some(dot) = rest.bytes().position(|byte| byte == b'.') {
        let (name, behind) = rest.split_at(dot);
        value = member(value, name);
        if value.is_null() {
            return value;
        }
        rest = &behind[1..];
    }
    member(value, rest)
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    #[test]
    fn a_member_is_found_by_the_names_on_the_way() {
        let object = json!({"a": {"b": {"c": 1}, "d.e": 2}, "f": [3]});
        for (names, member_value) in [
            ("a.b.c", json!(1)),
            ("a.b", json!({"c": 1})),
            ("f", json!([3])),
            ("f.0", json!(null)),
            ("a.d.e", json!(null)),
            ("x.y", json!(null)),
            ("a.", json!(null)),
            ("", json!(null)),
        ] {
            assert_eq!(*descend(&object, names), member_value, "{names}");
        }
        assert_eq!(*member(&object["a"], "d.e"), 2);
    }
}
