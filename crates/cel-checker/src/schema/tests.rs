use super::*;

fn node(kind: NodeKind) -> SchemaNode {
    SchemaNode {
        kind: Some(kind),
        ..SchemaNode::default()
    }
}

fn text(format: &str) -> SchemaNode {
    node(NodeKind::String {
        format: Some(format.to_owned()),
    })
}

fn object<const N: usize>(properties: [(&str, SchemaNode); N]) -> SchemaNode {
    let properties = properties.map(|(name, node)| (name.to_owned(), node));
    node(NodeKind::Object {
        properties: properties.to_vec(),
        additional: None,
    })
}

fn list(items: SchemaNode) -> SchemaNode {
    node(NodeKind::Array {
        items: Some(Box::new(items)),
    })
}

fn map(values: SchemaNode) -> SchemaNode {
    node(NodeKind::Object {
        properties: Vec::new(),
        additional: Some(Box::new(values)),
    })
}

/// The type of a field, as text.
fn field(of: &Type, name: &str) -> Option<Type> {
    let Type::Object(object) = of else {
        return None;
    };
    match &object.fields {
        crate::types::Fields::Known(fields) => fields.get(name).cloned(),
        crate::types::Fields::Hidden => None,
    }
}

#[test]
fn simple_types_follow_type_and_format() {
    let any = SchemaNode {
        is_int_or_string: true,
        ..SchemaNode::default()
    };
    for (node, expected) in [
        (node(NodeKind::Boolean), "bool"),
        (node(NodeKind::Integer), "int"),
        (node(NodeKind::Number), "double"),
        (text(""), "string"),
        (text("byte"), "bytes"),
        (text("date"), "timestamp"),
        (text("date-time"), "timestamp"),
        (text("duration"), "duration"),
        (text("uuid"), "string"),
        (any, "dyn"),
        (list(text("")), "list(string)"),
        (map(list(node(NodeKind::Integer))), "map(string, list(int))"),
        (list(object([])), "list(x.@idx)"),
        (map(object([])), "map(string, x.@elem)"),
        (object([]), "x"),
    ] {
        let of = schema_type(&node, "x", false);
        assert_eq!(of.map(|of| of.to_string()).as_deref(), Some(expected));
    }
}

#[test]
fn values_without_a_type_are_hidden() {
    let unknown = SchemaNode::default;
    assert_eq!(schema_type(&unknown(), "x", false), None);
    assert_eq!(schema_type(&list(unknown()), "x", false), None);
    assert_eq!(schema_type(&map(unknown()), "x", false), None);
    let of = schema_type(&object([("a", unknown()), ("b", text(""))]), "x", false);
    let of = of.unwrap();
    assert_eq!(field(&of, "a"), None);
    assert_eq!(field(&of, "b"), Some(Type::String));
}

#[test]
fn resources_have_names() {
    let embedded = SchemaNode {
        is_embedded: true,
        ..object([("metadata", object([("labels", map(text("")))]))])
    };
    let of = schema_type(&object([("template", embedded)]), "self", true).unwrap();
    assert_eq!(field(&of, "kind"), Some(Type::String));
    let template = field(&of, "template").unwrap();
    for of in [of, template] {
        let metadata = field(&of, "metadata").unwrap();
        assert_eq!(field(&metadata, "name"), Some(Type::String));
        assert_eq!(field(&metadata, "generateName"), Some(Type::String));
        assert_eq!(field(&metadata, "labels"), None);
    }
    let plain = schema_type(&object([]), "self", false).unwrap();
    assert_eq!(field(&plain, "kind"), None);
}

#[test]
fn names_are_escaped() {
    for (name, expected) in [
        ("a", Some("a")),
        ("a_b", Some("a_b")),
        ("a-b", Some("a__dash__b")),
        ("a.b", Some("a__dot__b")),
        ("a/b", Some("a__slash__b")),
        ("a__b", Some("a__underscores__b")),
        ("___", Some("__underscores___")),
        ("namespace", Some("__namespace__")),
        ("int", Some("int")),
        ("$ref", None),
        ("1a", None),
        ("", None),
        ("ä", None),
    ] {
        assert_eq!(escape(name).as_deref(), expected, "{name}");
    }
}
