//! The messages of the API, from a table: one line per message, then one per field with number,
//! JSON name (none for an embedded message) and type. Types are those of the published Go structs:
//! `*` marks a pointer, `[]` a list, `{}` a map.

use std::collections::BTreeMap;
use std::sync::OnceLock;

const TEXT: &str = include_str!("messages.tsv");

/// The number of values of a field.
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
    use std::collections::BTreeSet;

    use openapi_schema::{Schema, TypeRef};

    use super::*;

    type Seen = BTreeSet<String>;

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

    /// Kinds that Go clients encode in JSON: client-go has no protobuf types for them.
    const JSON_ONLY: [&str; 3] = [
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "snapshot.storage.k8s.io",
    ];

    /// The names of a message's fields, those of embedded messages included.
    fn names<'t>(table: &'t Table, message: &str, into: &mut BTreeMap<&'t str, &'t str>) {
        for field in table.fields(message) {
            if field.json.is_empty() {
                names(table, field.kind, into);
            } else {
                into.insert(field.json, field.kind);
            }
        }
    }

    /// Paths of fields that the schema has and the table has not.
    fn lacking(table: &Table, message: &str, schema: TypeRef<'_>, seen: &mut Seen) -> Vec<String> {
        if !table.is_message(message) || !seen.insert(message.to_owned()) {
            return Vec::new();
        }
        let mut known = BTreeMap::new();
        names(table, message, &mut known);
        let fields = schema
            .fields()
            .filter(|field| !["apiVersion", "kind"].contains(&field.name()));
        fields
            .flat_map(|field| {
                let Some(kind) = known.get(field.name()) else {
                    return vec![format!("{message}: {}", field.name())];
                };
                let inner = field.type_ref();
                lacking(table, kind, inner.element().unwrap_or(inner), seen)
            })
            .collect()
    }

    #[test]
    fn every_field_of_every_kind_has_its_number() {
        let table = Table::published();
        let mut seen = Seen::new();
        for kind in resource_kinds::all(&resource_kinds::ClusterConfig::default()) {
            let info = kind.info();
            if JSON_ONLY.contains(&info.group) {
                continue;
            }
            let version = info.api_version();
            let message = table.of_kind(&version, info.kind);
            let message = message.unwrap_or_else(|| panic!("{version} {}", info.kind));
            let schema = Schema::published().lookup(info.group, info.version, info.kind);
            let lacking = lacking(table, message, schema.unwrap(), &mut seen);
            assert!(lacking.is_empty(), "{lacking:#?}");
        }
        assert!(seen.len() > 250, "{}", seen.len());
    }

    /// A kind that is no longer served must leave the table too: a message is a kind, or the type of
    /// a field.
    #[test]
    fn every_message_belongs_to_a_kind_that_is_served() {
        /// Forms of other objects, and answers without a body of their own.
        const FORMS: [&str; 2] = ["meta/v1.PartialObjectMetadata", "meta/v1.Status"];
        let table = Table::published();
        let kinds = resource_kinds::all(&resource_kinds::ClusterConfig::default());
        let virtual_kinds = [
            ("v1", "ComponentStatus"),
            ("metrics.k8s.io/v1beta1", "NodeMetrics"),
            ("metrics.k8s.io/v1beta1", "PodMetrics"),
        ];
        let bodies = resource_kinds::bodies::kinds().chain(virtual_kinds);
        let bodies = bodies.map(|(version, kind)| {
            let message = table.of_kind(version, kind);
            message.unwrap_or_else(|| panic!("{version} {kind}"))
        });
        let stored = kinds.iter().filter_map(|kind| {
            let info = kind.info();
            table.of_kind(&info.api_version(), info.kind)
        });
        let mut served: BTreeSet<&str> = bodies.chain(stored).chain(FORMS).collect();
        for field in table.0.values().flatten() {
            served.insert(field.kind);
        }
        let idle = table.0.keys().filter(|message| !served.contains(**message));
        assert_eq!(idle.collect::<Vec<_>>(), Vec::<&&str>::new());
    }
}
