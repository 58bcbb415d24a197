//! The types of the API from a table of published facts (`data/types.tsv`): protobuf numbers, JSON names,
//! types, and the fields that are left out when they are empty. Rules about a field depend on its type
//! and on the structure that it belongs to, never on its name alone.

use std::collections::BTreeMap;
use std::sync::OnceLock;

const TEXT: &str = include_str!("../../data/types.tsv");

/// How many values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One value.
    One,
    /// A list of values.
    List,
    /// A map from texts to values.
    Map,
}

/// A field of a type.
#[derive(Debug)]
pub struct Field {
    /// Its number in protobuf.
    pub number: u32,
    /// Its name in JSON; empty for an embedded type.
    pub json: &'static str,
    /// A scalar, a type with a form of its own (`Quantity`, `Time`), or the name of a type.
    pub kind: &'static str,
    /// How many values it has.
    pub shape: Shape,
    /// Whether it can be absent, apart from being empty.
    pub pointer: bool,
    /// Whether JSON leaves it out when it is empty and no pointer.
    pub omitted_when_empty: bool,
}

/// All types by name, for instance `core/v1.Pod`.
#[derive(Debug)]
pub struct ApiTypes(BTreeMap<&'static str, Vec<Field>>);

impl ApiTypes {
    /// The types of the served version; read at the first call.
    pub fn published() -> &'static Self {
        static TYPES: OnceLock<ApiTypes> = OnceLock::new();
        TYPES.get_or_init(|| {
            let mut types: BTreeMap<&'static str, Vec<Field>> = BTreeMap::new();
            let mut current = "";
            for line in TEXT.lines().filter(|line| !line.starts_with('#')) {
                match line.strip_prefix('\t').map(field) {
                    None => {
                        current = line;
                        types.insert(current, Vec::new());
                    }
                    Some(Some(field)) => types.entry(current).or_default().push(field),
                    Some(None) => {}
                }
            }
            Self(types)
        })
    }

    /// The type of a kind.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&'static str> {
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

    /// The names of all types.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// The fields of a type; none for an unknown type.
    pub fn fields(&self, name: &str) -> &[Field] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether a field's type is a structure of the table.
    pub fn is_structure(&self, kind: &str) -> bool {
        self.0.contains_key(kind)
    }

    /// The field of a number.
    pub fn numbered(&self, name: &str, number: u32) -> Option<&Field> {
        let mut fields = self.fields(name).iter();
        fields.find(|field| field.number == number)
    }

    /// The field of a JSON name, those of embedded types among them.
    pub fn named(&self, name: &str, json: &str) -> Option<&Field> {
        self.fields(name)
            .iter()
            .find_map(|field| match field.json.is_empty() {
                true => self.named(field.kind, json),
                false => (field.json == json).then_some(field),
            })
    }
}

fn field(line: &'static str) -> Option<Field> {
    let mut words = line.split('\t');
    let (number, json, kind) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (json, omitted_when_empty) = json
        .strip_suffix('?')
        .map_or((json, false), |json| (json, true));
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
        omitted_when_empty,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings A16: every type that a field names is a type of the table or has a form of its own.
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
        let types = ApiTypes::published();
        assert!(types.0.len() > 300);
        for (name, fields) in &types.0 {
            for field in fields {
                let known = SPECIAL.contains(&field.kind) || types.is_structure(field.kind);
                assert!(known, "{name} {field:?}");
            }
        }
        for (version, kind) in [
            ("v1", "Pod"),
            ("apps/v1", "StatefulSet"),
            ("rbac.authorization.k8s.io/v1", "Role"),
            ("authentication.k8s.io/v1", "TokenRequest"),
            ("v1", "DeleteOptions"),
        ] {
            assert!(types.of_kind(version, kind).is_some(), "{kind}");
        }
    }

    #[test]
    fn fields_of_embedded_types_are_found_by_name() {
        let types = ApiTypes::published();
        let field = types.named("core/v1.Volume", "emptyDir").unwrap();
        assert!(field.pointer && field.kind == "core/v1.EmptyDirVolumeSource");
        let field = types.named("core/v1.PodSpec", "nodeSelector").unwrap();
        assert_eq!(field.shape, Shape::Map);
        assert!(field.omitted_when_empty);
        assert!(types.named("core/v1.PodSpec", "boat").is_none());
    }
}
