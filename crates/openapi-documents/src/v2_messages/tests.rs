//! Tests the written messages with an independent decoder.

use std::collections::BTreeMap;

use json_tree::{Map, Value, json};

use super::Contents;
use crate::Schema;

/// The expected contents of a message's field.
enum Read {
    Text,
    Texts,
    Flag,
    One(&'static str),
    Many(&'static str),
}

/// The fields of the served document, by message and number. The numbers are those in `OpenAPIv2.proto`.
fn field(message: &str, number: u64) -> (&'static str, Read) {
    use Read::{Flag, Many, One, Text, Texts};
    match (message, number) {
        ("Document", 1) => ("swagger", Text),
        ("Document", 2) => ("info", One("Info")),
        ("Document", 8) => ("paths", One("Paths")),
        ("Document", 9) => ("definitions", One("NamedSchemas")),
        ("Info", 1) => ("title", Text),
        ("Info", 2) => ("version", Text),
        ("PathItem", 2) => ("get", One("Operation")),
        ("PathItem", 3) => ("put", One("Operation")),
        ("PathItem", 4) => ("post", One("Operation")),
        ("PathItem", 5) => ("delete", One("Operation")),
        ("PathItem", 6) => ("options", One("Operation")),
        ("PathItem", 7) => ("head", One("Operation")),
        ("PathItem", 8) => ("patch", One("Operation")),
        ("PathItem", 9) | ("Operation", 8) => ("parameters", Many("ParametersItem")),
        ("Operation", 3) | ("Response", 1) | ("Schema", 4) => ("description", Text),
        ("Operation", 5) => ("operationId", Text),
        ("Operation", 6) => ("produces", Texts),
        ("Operation", 7) => ("consumes", Texts),
        ("Operation", 9) => ("responses", One("Responses")),
        ("BodyParameter", 2) | ("QueryParameter" | "PathParameter", 4) => ("name", Text),
        ("BodyParameter", 3) | ("QueryParameter" | "PathParameter", 2) => ("in", Text),
        ("BodyParameter", 5) => ("schema", One("Schema")),
        ("QueryParameter" | "PathParameter", 1) => ("required", Flag),
        ("QueryParameter" | "PathParameter", 3) => ("description", Text),
        ("QueryParameter", 6) | ("PathParameter", 5) => ("type", Text),
        ("Response", 2) => ("schema", One("SchemaItem")),
        ("Schema", 1) => ("$ref", Text),
        ("Schema", 2) => ("format", Text),
        ("Schema", 19) => ("required", Texts),
        ("Schema", 21) => ("additionalProperties", One("AdditionalPropertiesItem")),
        ("Schema", 22) => ("type", One("TypeItem")),
        ("Schema", 23) => ("items", One("ItemsItem")),
        ("Schema", 25) => ("properties", One("NamedSchemas")),
        _ => panic!("{message} has a field {number}"),
    }
}

/// Messages that are replaced by the content of their only field.
fn inner(message: &str, number: u64) -> Option<&'static str> {
    Some(match (message, number) {
        ("ParametersItem", 1) => "Parameter",
        ("Parameter", 1) => "BodyParameter",
        ("Parameter", 2) => "NonBodyParameter",
        ("NonBodyParameter", 3) => "QueryParameter",
        ("NonBodyParameter", 4) => "PathParameter",
        ("ResponseValue", 1) => "Response",
        ("SchemaItem" | "AdditionalPropertiesItem" | "ItemsItem", 1) => "Schema",
        _ => return None,
    })
}

/// Messages that are maps: the number of the field with their entries, and the type of their values.
fn map_of(message: &str) -> Option<(u64, &'static str)> {
    Some(match message {
        "Paths" => (2, "PathItem"),
        "NamedSchemas" => (1, "Schema"),
        "Responses" => (1, "ResponseValue"),
        _ => return None,
    })
}

fn extensions(message: &str) -> Option<u64> {
    Some(match message {
        "Operation" => 13,
        "Schema" => 31,
        _ => return None,
    })
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(number) => panic!("a number: {number}"),
        }
    }

    fn text(&self) -> &'a str {
        std::str::from_utf8(self.bytes()).unwrap()
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    object_model::varint::read(bytes).unwrap()
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Wire<'_>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let content = match tag & 7 {
            0 => Wire::Number(varint(&mut bytes)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).unwrap();
                let (content, rest) = bytes.split_at(length);
                bytes = rest;
                Wire::Bytes(content)
            }
            other => panic!("wire type {other}"),
        };
        all.push((tag >> 3, content));
    }
    all
}

fn pair(bytes: &[u8]) -> (String, &[u8]) {
    let members: BTreeMap<u64, Wire<'_>> = fields(bytes).into_iter().collect();
    assert!(members.keys().all(|number| [1, 2].contains(number)));
    (members[&1].text().to_owned(), members[&2].bytes())
}

fn any(bytes: &[u8]) -> Value {
    match fields(bytes).as_slice() {
        [(2, yaml)] => serde_json::from_str(yaml.text()).unwrap(),
        _ => panic!("an Any without YAML"),
    }
}

fn read(message: &str, bytes: &[u8]) -> Value {
    let all = fields(bytes);
    if let Some((expected, element)) = map_of(message) {
        let pairs = all.iter().map(|(number, content)| {
            assert_eq!(*number, expected, "{message}");
            let (name, value) = pair(content.bytes());
            (name, read(element, value))
        });
        return pairs.collect::<Map<String, Value>>().into();
    }
    match (message, all.as_slice()) {
        ("TypeItem", [(1, name)]) => return name.text().into(),
        ("AdditionalPropertiesItem", [(2, Wire::Number(allowed))]) => {
            return (*allowed == 1).into();
        }
        (_, [(number, content)]) => {
            if let Some(inner) = inner(message, *number) {
                return read(inner, content.bytes());
            }
        }
        _ => {}
    }
    let mut object = Map::new();
    let mut last = 0;
    for (number, content) in all {
        assert!(number >= last, "{message}: fields in order");
        last = number;
        if extensions(message) == Some(number) {
            let (name, value) = pair(content.bytes());
            object.insert(name, any(value));
            continue;
        }
        let (name, how) = field(message, number);
        let value = match (&how, &content) {
            (Read::Text | Read::Texts, content) => content.text().into(),
            (Read::Flag, Wire::Number(flag)) => (*flag == 1).into(),
            (Read::One(element) | Read::Many(element), content) => read(element, content.bytes()),
            (Read::Flag, _) => panic!("{message}.{name} is not a flag"),
        };
        if matches!(how, Read::Texts | Read::Many(_)) {
            let list = object.entry(name).or_insert_with(|| json!([]));
            list.as_array_mut().unwrap().push(value);
        } else {
            assert!(
                object.insert(name.to_owned(), value).is_none(),
                "{name} twice"
            );
        }
    }
    object.into()
}

fn written(document: &Value) -> Vec<u8> {
    let mut contents = Contents::default();
    for (path, item) in document["paths"].as_object().unwrap() {
        contents.path(path, item);
    }
    for (name, definition) in document["definitions"].as_object().unwrap() {
        contents.definition(name, definition);
    }
    contents.document(document)
}

/// kubectl.md 0.10. The expected bytes are written by hand, from the numbers in `OpenAPIv2.proto`.
#[test]
fn a_tiny_document_has_these_bytes() {
    let document = json!({
        "swagger": "2.0",
        "info": {"title": "T"},
        "paths": {"/a": {"get": {
            "operationId": "g",
            "produces": ["p"],
            "parameters": [{"name": "q", "in": "query", "type": "string"}],
            "responses": {
                "200": {"description": "OK", "schema": {"$ref": "#/definitions/A"}},
            },
            "x-k": "v",
        }}},
        "definitions": {"A": {
            "type": "object",
            "required": ["b"],
            "properties": {
                "b": {"type": "array", "items": {"type": "string"}},
                "c": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "x-l": ["m"],
        }},
    });
    let golden: &[&[u8]] = &[
        b"\x0a\x032.0",
        b"\x12\x03\x0a\x01T",
        // paths, the path, its GET
        b"\x42\x5f\x12\x5d\x0a\x02/a\x12\x57\x12\x55",
        b"\x2a\x01g",
        b"\x32\x01p",
        b"\x42\x18\x0a\x16\x12\x14\x1a\x12\x12\x05query\x22\x01q\x32\x06string",
        b"\x4a\x24\x0a\x22\x0a\x03200\x12\x1b\x0a\x19\x0a\x02OK",
        b"\x12\x13\x0a\x11\x0a\x0f#/definitions/A",
        b"\x6a\x0d\x0a\x03x-k\x12\x06\x12\x04\"v\"\n",
        // definitions, A
        b"\x4a\x6e\x0a\x6c\x0a\x01A\x12\x67",
        b"\x9a\x01\x01b",
        b"\xb2\x01\x08\x0a\x06object",
        b"\xca\x01\x43",
        b"\x0a\x1f\x0a\x01b\x12\x1a\xb2\x01\x07\x0a\x05array",
        b"\xba\x01\x0d\x0a\x0b\xb2\x01\x08\x0a\x06string",
        b"\x0a\x20\x0a\x01c\x12\x1b\xaa\x01\x0d\x0a\x0b\xb2\x01\x08\x0a\x06string",
        b"\xb2\x01\x08\x0a\x06object",
        b"\xfa\x01\x0f\x0a\x03x-l\x12\x08\x12\x06[\"m\"]\n",
    ];
    let bytes = written(&document);
    assert_eq!(
        bytes.escape_ascii().to_string(),
        golden.concat().escape_ascii().to_string()
    );
    assert_eq!(read("Document", &bytes), document);
}

#[test]
fn alternatives_are_told_apart() {
    let document = json!({
        "swagger": "2.0",
        "paths": {"/b": {
            "parameters": [{"name": "n", "in": "path", "type": "string", "required": true}],
            "post": {"parameters": [{"name": "body", "in": "body", "schema": {"type": "object"}}]},
        }},
        "definitions": {
            "Closed": {"type": "object", "additionalProperties": false},
            "Empty": {"type": "object", "properties": {}},
            "Anything": {},
        },
    });
    assert_eq!(read("Document", &written(&document)), document);
}

/// The document is complete: a member that is missing in the tables would be missing in the decoded document.
#[test]
fn the_served_document_is_the_same_in_both_forms() {
    let served = resource_kinds::all(&resource_kinds::ClusterConfig::default());
    let kinds: Vec<_> = served.iter().map(|kind| kind.info()).collect();
    let schema = Schema::published();
    let json: Value = serde_json::from_slice(&schema.openapi_v2_document(&kinds, &[])).unwrap();
    let read = read("Document", &schema.openapi_v2_protobuf(&kinds, &[]));
    for part in ["swagger", "info"] {
        assert_eq!(read[part], json[part]);
    }
    for part in ["paths", "definitions"] {
        let (read, json) = (
            read[part].as_object().unwrap(),
            json[part].as_object().unwrap(),
        );
        assert!(read.keys().eq(json.keys()), "{part}");
        for (name, expected) in json {
            assert_eq!(&read[name], expected, "{name}");
        }
    }
}
