//! OpenAPI v2 in protobuf: the messages of `openapi.v2` (gnostic's `OpenAPIv2.proto`), in which kubectl reads the
//! older document. The module contains the tables of field numbers, and the few messages whose form differs from the
//! JSON form.
//!
//! Security, tags, headers, examples and XML are absent, because the documents do not contain them.

use json_tree::Value;

use crate::protobuf::{Field, FieldType, Message, Shape};

/// `Document`, without its paths and definitions, which are in [`Contents`].
static HEAD: Shape = Shape {
    fields: &[
        field("swagger", 1, FieldType::Text),
        field("info", 2, FieldType::Message(&INFO)),
    ],
    extensions: Some(16),
};

static INFO: Shape = Shape {
    fields: &[
        field("title", 1, FieldType::Text),
        field("version", 2, FieldType::Text),
        field("description", 3, FieldType::Text),
    ],
    extensions: Some(7),
};

static PATH_ITEM: Shape = Shape {
    fields: &[
        field("$ref", 1, FieldType::Text),
        field("get", 2, FieldType::Message(&OPERATION)),
        field("put", 3, FieldType::Message(&OPERATION)),
        field("post", 4, FieldType::Message(&OPERATION)),
        field("delete", 5, FieldType::Message(&OPERATION)),
        field("options", 6, FieldType::Message(&OPERATION)),
        field("head", 7, FieldType::Message(&OPERATION)),
        field("patch", 8, FieldType::Message(&OPERATION)),
        field("parameters", 9, FieldType::EachMade(parameter)),
    ],
    extensions: Some(10),
};

static OPERATION: Shape = Shape {
    fields: &[
        field("tags", 1, FieldType::Texts),
        field("summary", 2, FieldType::Text),
        field("description", 3, FieldType::Text),
        field("operationId", 5, FieldType::Text),
        field("produces", 6, FieldType::Texts),
        field("consumes", 7, FieldType::Texts),
        field("parameters", 8, FieldType::EachMade(parameter)),
        field("responses", 9, FieldType::Made(responses)),
        field("schemes", 10, FieldType::Texts),
        field("deprecated", 11, FieldType::Flag),
    ],
    extensions: Some(13),
};

static BODY_PARAMETER: Shape = Shape {
    fields: &[
        field("description", 1, FieldType::Text),
        field("name", 2, FieldType::Text),
        field("in", 3, FieldType::Text),
        field("required", 4, FieldType::Flag),
        field("schema", 5, FieldType::Message(&SCHEMA)),
    ],
    extensions: Some(6),
};

/// `QueryParameterSubSchema`, `FormDataParameterSubSchema`.
static EMPTIABLE_PARAMETER: Shape = Shape {
    fields: &[
        field("required", 1, FieldType::Flag),
        field("in", 2, FieldType::Text),
        field("description", 3, FieldType::Text),
        field("name", 4, FieldType::Text),
        field("allowEmptyValue", 5, FieldType::Flag),
        field("type", 6, FieldType::Text),
        field("format", 7, FieldType::Text),
        field("items", 8, FieldType::Message(&PRIMITIVES_ITEMS)),
        field("collectionFormat", 9, FieldType::Text),
        field("default", 10, FieldType::Any),
        field("maximum", 11, FieldType::Double),
        field("exclusiveMaximum", 12, FieldType::Flag),
        field("minimum", 13, FieldType::Double),
        field("exclusiveMinimum", 14, FieldType::Flag),
        field("maxLength", 15, FieldType::Integer),
        field("minLength", 16, FieldType::Integer),
        field("pattern", 17, FieldType::Text),
        field("maxItems", 18, FieldType::Integer),
        field("minItems", 19, FieldType::Integer),
        field("uniqueItems", 20, FieldType::Flag),
        field("enum", 21, FieldType::Anys),
        field("multipleOf", 22, FieldType::Double),
    ],
    extensions: Some(23),
};

/// `PathParameterSubSchema`, `HeaderParameterSubSchema`.
static PLAIN_PARAMETER: Shape = Shape {
    fields: &[
        field("required", 1, FieldType::Flag),
        field("in", 2, FieldType::Text),
        field("description", 3, FieldType::Text),
        field("name", 4, FieldType::Text),
        field("type", 5, FieldType::Text),
        field("format", 6, FieldType::Text),
        field("items", 7, FieldType::Message(&PRIMITIVES_ITEMS)),
        field("collectionFormat", 8, FieldType::Text),
        field("default", 9, FieldType::Any),
        field("maximum", 10, FieldType::Double),
        field("exclusiveMaximum", 11, FieldType::Flag),
        field("minimum", 12, FieldType::Double),
        field("exclusiveMinimum", 13, FieldType::Flag),
        field("maxLength", 14, FieldType::Integer),
        field("minLength", 15, FieldType::Integer),
        field("pattern", 16, FieldType::Text),
        field("maxItems", 17, FieldType::Integer),
        field("minItems", 18, FieldType::Integer),
        field("uniqueItems", 19, FieldType::Flag),
        field("enum", 20, FieldType::Anys),
        field("multipleOf", 21, FieldType::Double),
    ],
    extensions: Some(22),
};

static PRIMITIVES_ITEMS: Shape = Shape {
    fields: &[
        field("type", 1, FieldType::Text),
        field("format", 2, FieldType::Text),
        field("items", 3, FieldType::Message(&PRIMITIVES_ITEMS)),
        field("collectionFormat", 4, FieldType::Text),
        field("default", 5, FieldType::Any),
        field("maximum", 6, FieldType::Double),
        field("exclusiveMaximum", 7, FieldType::Flag),
        field("minimum", 8, FieldType::Double),
        field("exclusiveMinimum", 9, FieldType::Flag),
        field("maxLength", 10, FieldType::Integer),
        field("minLength", 11, FieldType::Integer),
        field("pattern", 12, FieldType::Text),
        field("maxItems", 13, FieldType::Integer),
        field("minItems", 14, FieldType::Integer),
        field("uniqueItems", 15, FieldType::Flag),
        field("enum", 16, FieldType::Anys),
        field("multipleOf", 17, FieldType::Double),
    ],
    extensions: Some(18),
};

static RESPONSE: Shape = Shape {
    fields: &[
        field("description", 1, FieldType::Text),
        field(
            "schema",
            2,
            FieldType::Made(|value| wrapped(1, &schema(value))),
        ),
    ],
    extensions: Some(5),
};

static JSON_REFERENCE: Shape = Shape {
    fields: &[
        field("$ref", 1, FieldType::Text),
        field("description", 2, FieldType::Text),
    ],
    extensions: None,
};

static SCHEMA: Shape = Shape {
    fields: &[
        field("$ref", 1, FieldType::Text),
        field("format", 2, FieldType::Text),
        field("title", 3, FieldType::Text),
        field("description", 4, FieldType::Text),
        field("default", 5, FieldType::Any),
        field("multipleOf", 6, FieldType::Double),
        field("maximum", 7, FieldType::Double),
        field("exclusiveMaximum", 8, FieldType::Flag),
        field("minimum", 9, FieldType::Double),
        field("exclusiveMinimum", 10, FieldType::Flag),
        field("maxLength", 11, FieldType::Integer),
        field("minLength", 12, FieldType::Integer),
        field("pattern", 13, FieldType::Text),
        field("maxItems", 14, FieldType::Integer),
        field("minItems", 15, FieldType::Integer),
        field("uniqueItems", 16, FieldType::Flag),
        field("maxProperties", 17, FieldType::Integer),
        field("minProperties", 18, FieldType::Integer),
        field("required", 19, FieldType::Texts),
        field("enum", 20, FieldType::Anys),
        field(
            "additionalProperties",
            21,
            FieldType::Made(additional_properties),
        ),
        field("type", 22, FieldType::Made(types)),
        field("items", 23, FieldType::Made(items)),
        field("allOf", 24, FieldType::Messages(&SCHEMA)),
        field("properties", 25, FieldType::Made(properties)),
        field("discriminator", 26, FieldType::Text),
        field("readOnly", 27, FieldType::Flag),
        field("example", 30, FieldType::Any),
    ],
    extensions: Some(31),
};

/// The two large parts of a document, added one path and one definition at a time.
#[derive(Default)]
pub(crate) struct Contents {
    paths: Message,
    definitions: Message,
}

impl Contents {
    pub fn path(&mut self, path: &str, item: &Value) {
        self.paths.pair(2, path, &Message::of(&PATH_ITEM, item));
    }

    pub fn definition(&mut self, name: &str, definition: &Value) {
        self.definitions.pair(1, name, &schema(definition));
    }

    /// The whole document; `head` contains its small members.
    pub fn document(self, head: &Value) -> Vec<u8> {
        let mut document = Message::of(&HEAD, head);
        document.message(8, &self.paths);
        document.message(9, &self.definitions);
        document.into_bytes()
    }
}

const fn field(member: &'static str, number: u32, form: FieldType) -> Field {
    Field {
        member,
        number,
        form,
    }
}

fn schema(value: &Value) -> Message {
    Message::of(&SCHEMA, value)
}

fn wrapped(number: u32, inner: &Message) -> Message {
    let mut outer = Message::default();
    outer.message(number, inner);
    outer
}

/// `ParametersItem`: a reference, or a `Parameter` of one of five kinds.
fn parameter(value: &Value) -> Message {
    if value.get("$ref").is_some() {
        return wrapped(2, &Message::of(&JSON_REFERENCE, value));
    }
    let location = value.get("in").and_then(Value::as_str);
    let parameter = match location.unwrap_or_default() {
        "body" => wrapped(1, &Message::of(&BODY_PARAMETER, value)),
        other => {
            let (number, shape) = match other {
                "header" => (1, &PLAIN_PARAMETER),
                "formData" => (2, &EMPTIABLE_PARAMETER),
                "path" => (4, &PLAIN_PARAMETER),
                _ => (3, &EMPTIABLE_PARAMETER),
            };
            wrapped(2, &wrapped(number, &Message::of(shape, value)))
        }
    };
    wrapped(1, &parameter)
}

/// `Responses`: by status code, each a reference or a `Response`.
fn responses(value: &Value) -> Message {
    let mut message = Message::default();
    for (code, response) in value.as_object().into_iter().flatten() {
        let value = if response.get("$ref").is_some() {
            wrapped(2, &Message::of(&JSON_REFERENCE, response))
        } else {
            wrapped(1, &Message::of(&RESPONSE, response))
        };
        message.pair(1, code, &value);
    }
    message
}

/// `AdditionalPropertiesItem`: a schema, or whether additional properties are allowed.
fn additional_properties(value: &Value) -> Message {
    let mut message = Message::default();
    match value {
        Value::Bool(allowed) => message.chosen_flag(2, *allowed),
        value => message.message(1, &schema(value)),
    }
    message
}

/// `TypeItem`: one name or several names.
fn types(value: &Value) -> Message {
    let mut message = Message::default();
    for name in one_or_many(value).iter().filter_map(Value::as_str) {
        message.text(1, name);
    }
    message
}

/// `ItemsItem`: one schema or several schemas.
fn items(value: &Value) -> Message {
    let mut message = Message::default();
    for one in one_or_many(value) {
        message.message(1, &schema(one));
    }
    message
}

fn properties(value: &Value) -> Message {
    let mut message = Message::default();
    for (name, property) in value.as_object().into_iter().flatten() {
        message.pair(1, name, &schema(property));
    }
    message
}

fn one_or_many(value: &Value) -> &[Value] {
    match value {
        Value::Array(all) => all,
        one => std::slice::from_ref(one),
    }
}

#[cfg(test)]
mod tests;
