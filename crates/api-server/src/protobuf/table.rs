//! The messages of the API, from a table: one line per message, then one per field with number,
//! JSON name (none for an embedded message) and type. Types are those of the published Go structs:
//! `*` marks a pointer, `[]` a list, `{}` a map.

use std::collections::BTreeMap;
use std::sync::OnceLock;

const TEXT: &str = include_str!("messages.tsv");

/// How many values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    List,
    Map,
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) json: &'static str,
    /// A scalar, a special type, or the name of a message.
    pub(super) kind: &'static str,
    pub(super) shape: Shape,
    pub(super) pointer: bool,
}

/// All messages by name, for instance `core/v1.Pod`.
pub(super) struct Table(BTreeMap<&'static str, Vec<Field>>);

impl Table {
    /// The table of the served API; made at the first call.
    pub(super) fn published() -> &'static Self {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| {
            let mut messages: BTreeMap<&'static str, Vec<Field>> = BTreeMap::new();
            let mut current = "";
            for line in TEXT.lines() {
                match line.strip_prefix('\t').map(field) {
                    None => {
                        current = line;
                        messages.insert(current, Vec::new());
                    }
                    Some(Some(field)) => messages.entry(current).or_default().push(field),
                    Some(None) => {}
                }
            }
            Self(messages)
        })
    }

    /// The message of a kind.
    pub(super) fn of_kind(&self, api_version: &str, kind: &str) -> Option<&'static str> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let package = match group.split('.').next().unwrap_or_default() {
            "" => "core",
            first => first,
        };
        let names = [
            format!("{package}/{version}.{kind}"),
            format!("meta/v1.{kind}"),
        ];
        names
            .iter()
            .find_map(|name| self.0.get_key_value(name.as_str()).map(|(name, _)| *name))
    }

    /// The fields of a message.
    pub(super) fn fields(&self, message: &str) -> &[Field] {
        self.0.get(message).map_or(&[], Vec::as_slice)
    }

    /// Whether a field's type is a message of the table.
    #[cfg(test)]
    pub(super) fn is_message(&self, kind: &str) -> bool {
        self.0.contains_key(kind)
    }

    pub(super) fn field(&self, message: &str, number: u32) -> Option<&Field> {
        self.0
            .get(message)?
            .iter()
            .find(|field| field.number == number)
    }
}

fn field(line: &'static str) -> Option<Field> {
    let mut words = line.split('\t');
    let (number, json, kind) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (pointer, kind) = kind
        .strip_prefix('*')
        .map_or((false, kind), |kind| (true, kind));
    let (shape, kind) = if let Some(element) = kind.strip_prefix("[]") {
        (Shape::List, element)
    } else if let Some(value) = kind.strip_prefix("{}") {
        (Shape::Map, value)
    } else {
        (Shape::One, kind)
    };
    Some(Field {
        number,
        json,
        kind,
        shape,
        pointer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_a_field_names_is_known() {
        const SPECIAL: [&str; 12] = [
            "string",
            "bytes",
            "int",
            "bool",
            "double",
            "Time",
            "MicroTime",
            "Duration",
            "Quantity",
            "Items",
            "IntOrString",
            "Raw",
        ];
        let table = Table::published();
        assert!(table.0.len() > 300);
        for (message, fields) in &table.0 {
            for field in fields {
                let known = SPECIAL.contains(&field.kind) || table.0.contains_key(field.kind);
                assert!(known, "{message} {field:?}");
            }
        }
        for (version, kind) in [
            ("v1", "Pod"),
            ("apps/v1", "StatefulSet"),
            ("rbac.authorization.k8s.io/v1", "Role"),
            ("authentication.k8s.io/v1", "TokenRequest"),
            ("v1", "DeleteOptions"),
        ] {
            assert!(table.of_kind(version, kind).is_some(), "{kind}");
        }
    }
}
