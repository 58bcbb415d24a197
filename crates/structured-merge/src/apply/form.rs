//! The merge form of a value in server-side apply: atomic, or with separately owned parts.

use openapi_documents::{FieldRef, ListType, MapType, Shape, TypeRef};

/// The merge behaviour of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum MergeForm<'s> {
    /// Atomic: scalars, atomic lists and maps, and values of unknown type.
    Leaf,
    /// Merged field by field.
    Struct(TypeRef<'s>),
    /// Merged entry by entry. The type is that of the values.
    Map(TypeRef<'s>),
    /// Merged entry by entry if it is an object, otherwise atomic: a part of a custom resource without a schema.
    Open,
    /// A list of unique scalars.
    Set,
    /// A list of objects that are identified by some of their fields.
    Keyed(FieldRef<'s>),
}

impl<'s> MergeForm<'s> {
    /// The merge form of a field's value.
    pub fn of_field(field: FieldRef<'s>) -> Self {
        let value = field.type_ref();
        match (value.shape(), field.list_type()) {
            (Shape::List, Some(ListType::Set)) => Self::Set,
            (Shape::List, Some(ListType::Map)) => Self::Keyed(field),
            (Shape::Object | Shape::Map | Shape::Any, _)
                if field.map_type() == Some(MapType::Atomic) =>
            {
                Self::Leaf
            }
            _ => Self::of_type(value),
        }
    }

    /// The merge form of an element, of a map's value, or of a whole object.
    pub fn of_type(value: TypeRef<'s>) -> Self {
        if value.map_type() == Some(MapType::Atomic) {
            return Self::Leaf;
        }
        match value.shape() {
            Shape::Object => Self::Struct(value),
            Shape::Map => value.element().map_or(Self::Leaf, Self::Map),
            Shape::Any if value.is_custom() => Self::Open,
            Shape::Any | Shape::Scalar | Shape::List => Self::Leaf,
        }
    }

    /// The merge form of the entry with this name, and its field if the type declares one.
    pub fn entry(&self, name: &str) -> (Self, Option<FieldRef<'s>>) {
        match self {
            Self::Struct(object) => match object.field(name) {
                Some(field) => (Self::of_field(field), Some(field)),
                None => (Self::Leaf, None),
            },
            Self::Map(value) => (Self::of_type(*value), None),
            Self::Open => (Self::Open, None),
            Self::Leaf | Self::Set | Self::Keyed(_) => (Self::Leaf, None),
        }
    }

    /// The form of a list's elements.
    pub fn element(&self) -> Self {
        match self {
            Self::Keyed(field) => {
                let element = field.type_ref().element();
                element.map_or(Self::Leaf, Self::of_type)
            }
            _ => Self::Leaf,
        }
    }

    /// Whether a value is merged entry by entry if it is an object.
    pub fn has_entries(&self) -> bool {
        matches!(self, Self::Struct(_) | Self::Map(_) | Self::Open)
    }

    pub fn is_list(&self) -> bool {
        matches!(self, Self::Set | Self::Keyed(_))
    }
}
