//! The sizes that values of a schema can have (k8s.io/apiserver, `pkg/cel/common/schemas.go`).

use std::collections::BTreeMap;

/// Maximum bytes of a request, which limits all sizes that a schema does not limit.
const REQUEST_BYTES_MAX: u64 = 3 * 1024 * 1024;
/// Bytes of an empty text, list or map in JSON.
const EMPTY_BYTES: u64 = 2;

/// The size of the values of one schema.
#[derive(Clone, Debug)]
pub struct ValueSize {
    /// Maximum number of elements, entries, characters or bytes; 0 for scalars and objects.
    pub max_elements: u64,
    /// Minimum number of bytes in JSON.
    pub min_bytes: u64,
    pub content: Content,
}

/// The values inside of a value.
#[derive(Clone, Debug)]
pub enum Content {
    /// A value without other values inside.
    Plain,
    /// The elements of a list.
    Elements(Box<ValueSize>),
    /// The values of a map.
    Entries(Box<ValueSize>),
    /// The fields of an object, by their escaped names.
    Fields(BTreeMap<String, ValueSize>),
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct FieldSize {
    /// The name in JSON.
    pub name: String,
    /// The name in expressions.
    pub escaped: String,
    pub size: ValueSize,
    /// Whether each request must have the field.
    pub is_sent: bool,
}

impl ValueSize {
    pub fn boolean() -> Self {
        Self::plain(0, 4)
    }

    pub fn number() -> Self {
        Self::plain(0, 1)
    }

    /// A text of at most this many characters, each of which has at most four bytes.
    pub fn text(max_characters: Option<u64>) -> Self {
        let max = max_characters.map(|max| max.saturating_mul(4));
        Self::plain(max.unwrap_or(REQUEST_BYTES_MAX - EMPTY_BYTES), EMPTY_BYTES)
    }

    /// One of some texts, the longest of which has this many bytes.
    pub fn one_of(longest: u64) -> Self {
        Self::plain(longest, EMPTY_BYTES)
    }

    /// Bytes, as a text in base64.
    pub fn bytes(max: Option<u64>) -> Self {
        Self::plain(max.unwrap_or(REQUEST_BYTES_MAX - EMPTY_BYTES), EMPTY_BYTES)
    }

    pub fn duration() -> Self {
        Self::plain(32, 3)
    }

    pub fn date() -> Self {
        Self::plain(12, 12)
    }

    pub fn date_time() -> Self {
        Self::plain(32, 21)
    }

    /// A number or a text.
    pub fn int_or_string(max_characters: Option<u64>) -> Self {
        Self {
            min_bytes: 1,
            ..Self::text(max_characters)
        }
    }

    pub fn list(element: Self, max_items: Option<u64>) -> Self {
        let estimated = (REQUEST_BYTES_MAX - EMPTY_BYTES) / (element.min_bytes + 1);
        Self {
            max_elements: max_items.unwrap_or(estimated),
            min_bytes: EMPTY_BYTES,
            content: Content::Elements(Box::new(element)),
        }
    }

    pub fn map(value: Self, max_properties: Option<u64>) -> Self {
        // An entry has at least two characters of a key, two quotation marks, a colon and a comma.
        let estimated = (REQUEST_BYTES_MAX - EMPTY_BYTES) / (value.min_bytes + 6);
        Self {
            max_elements: max_properties.unwrap_or(estimated),
            min_bytes: EMPTY_BYTES,
            content: Content::Entries(Box::new(value)),
        }
    }

    pub fn object(fields: impl IntoIterator<Item = FieldSize>) -> Self {
        let mut min_bytes = EMPTY_BYTES;
        let mut content = BTreeMap::new();
        for field in fields {
            if field.is_sent {
                // Quotation marks, a colon and a comma.
                min_bytes += field.name.len() as u64 + field.size.min_bytes + 4;
            }
            content.insert(field.escaped, field.size);
        }
        Self {
            max_elements: 0,
            min_bytes,
            content: Content::Fields(content),
        }
    }

    fn plain(max_elements: u64, min_bytes: u64) -> Self {
        Self {
            max_elements,
            min_bytes,
            content: Content::Plain,
        }
    }

    /// The largest number of such values in one request.
    pub fn max_cardinality(&self) -> u64 {
        REQUEST_BYTES_MAX / (self.min_bytes + 1)
    }

    /// The maximum size of a part; `None` if the schema does not describe the part.
    pub(super) fn max_elements_at(&self, path: &[PathStep]) -> Option<u64> {
        let Some((step, rest)) = path.split_first() else {
            return Some(self.max_elements);
        };
        match (step, &self.content) {
            (PathStep::Elements, Content::Elements(below))
            | (PathStep::Values, Content::Entries(below))
            | (PathStep::Elements, Content::Entries(below))
            | (PathStep::Values, Content::Elements(below)) => below.max_elements_at(rest),
            // Upstream gives the keys of maps no size.
            (PathStep::Keys, Content::Entries(_)) => rest.is_empty().then_some(0),
            (PathStep::Field(name), Content::Fields(fields)) => {
                fields.get(name)?.max_elements_at(rest)
            }
            _ => None,
        }
    }
}

/// A step from a value to a value inside of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PathStep {
    Field(String),
    Elements,
    Values,
    Keys,
    /// The positions of a list.
    Indices,
}
