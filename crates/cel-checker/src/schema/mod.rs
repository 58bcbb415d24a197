//! Types from structural schemas (k8s.io/apiserver, `pkg/cel/common/schemas.go`).

mod escaping;

pub use escaping::{escape, is_reserved};

use crate::types::Type;

/// The content of a schema that decides its type.
#[derive(Clone, Debug, Default)]
pub struct SchemaNode {
    /// `None` if the type is unspecified or unknown.
    pub kind: Option<NodeKind>,
    /// `x-kubernetes-int-or-string`.
    pub is_int_or_string: bool,
    /// `x-kubernetes-embedded-resource`.
    pub is_embedded: bool,
}

/// The JSON type of a schema.
#[derive(Clone, Debug)]
pub enum NodeKind {
    Boolean,
    Integer,
    Number,
    String {
        format: Option<String>,
    },
    Array {
        items: Option<Box<SchemaNode>>,
    },
    Object {
        properties: Vec<(String, SchemaNode)>,
        /// The schema in `additionalProperties`.
        additional: Option<Box<SchemaNode>>,
    },
}

impl NodeKind {
    /// The kind of a schema without parts; `None` for arrays, objects and unknown types.
    pub fn scalar(json_type: &str, format: Option<&str>) -> Option<Self> {
        Some(match json_type {
            "boolean" => Self::Boolean,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "string" => Self::String {
                format: format.map(str::to_owned),
            },
            _ => return None,
        })
    }
}

/// The type of the values of a schema; `None` if expressions cannot use them. `name` is the name of the type. The root
/// of a resource has the fields that each resource has.
pub fn schema_type(node: &SchemaNode, name: &str, is_root: bool) -> Option<Type> {
    if node.is_int_or_string {
        return Some(Type::Dyn);
    }
    let below = |node: &SchemaNode, name: String| schema_type(node, &name, node.is_embedded);
    Some(match node.kind.as_ref()? {
        NodeKind::Boolean => Type::Bool,
        NodeKind::Integer => Type::Int,
        NodeKind::Number => Type::Double,
        NodeKind::String { format } => match format.as_deref() {
            Some("byte") => Type::Bytes,
            Some("duration") => Type::Duration,
            Some("date" | "date-time") => Type::Timestamp,
            _ => Type::String,
        },
        NodeKind::Array { items } => Type::list(below(items.as_ref()?, format!("{name}.@idx"))?),
        NodeKind::Object {
            additional: Some(additional),
            ..
        } => Type::map(Type::String, below(additional, format!("{name}.@elem"))?),
        NodeKind::Object { properties, .. } => {
            let fields = properties.iter().filter_map(|(field, node)| {
                let field = escape(field)?;
                let field_type = below(node, format!("{name}.{field}"))?;
                Some((field, field_type))
            });
            if !is_root || has_resource_fields(properties) {
                Type::object(name, fields)
            } else {
                Type::object(name, fields.chain(resource_fields(name)))
            }
        }
    })
}

/// Whether a schema specifies all fields of [`resource_fields`].
fn has_resource_fields(properties: &[(String, SchemaNode)]) -> bool {
    let property = |properties: &[(String, SchemaNode)], name: &str| {
        let entry = properties.iter().find(|(property, _)| property == name);
        entry.and_then(|(_, node)| node.kind.clone())
    };
    let is_text = |kind| matches!(kind, Some(NodeKind::String { .. }));
    let Some(NodeKind::Object {
        properties: metadata,
        ..
    }) = property(properties, "metadata")
    else {
        return false;
    };
    is_text(property(properties, "kind"))
        && is_text(property(properties, "apiVersion"))
        && is_text(property(&metadata, "name"))
        && is_text(property(&metadata, "generateName"))
}

/// The fields of each resource.
fn resource_fields(name: &str) -> [(String, Type); 3] {
    let text = |name: &str| (name.to_owned(), Type::String);
    let metadata = [text("name"), text("generateName")];
    let metadata = Type::object(&format!("{name}.metadata"), metadata);
    [
        text("kind"),
        text("apiVersion"),
        ("metadata".to_owned(), metadata),
    ]
}

#[cfg(test)]
mod tests;
