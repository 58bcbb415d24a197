//! The types of the API from a table of published facts (`data/types.tsv`): protobuf numbers, JSON names, types, and
//! the fields that are omitted if they are empty. Rules about a field depend on its type and on the structure that
//! contains it, never on its name alone.

use std::collections::BTreeMap;
use std::sync::OnceLock;

const TEXT: &str = include_str!("../../data/types.tsv");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One value.
    One,
    /// A list of values.
    List,
    /// A map from texts to values.
    Map,
}

/// The type of a value in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// A text.
    String,
    /// Bytes, as base64.
    Bytes,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// A boolean.
    Bool,
    /// A number.
    Double,
    /// A time in whole seconds.
    Time,
    /// A time in microseconds.
    MicroTime,
    /// A length of time such as `1m30s`.
    Duration,
    /// An amount of a resource.
    Quantity,
    /// A list of texts, as the value of a map.
    Items,
    /// A whole number of 32 bits, or a text.
    IntOrString,
    /// Any JSON.
    Raw,
    /// A structure of the table, by its index.
    Structure(usize),
}

/// A field of a type.
#[derive(Clone, Debug)]
pub struct Field {
    pub number: u32,
    /// The name in JSON; empty for an embedded type.
    pub json: &'static str,
    /// A scalar, a type with its own JSON form (`Quantity`, `Time`), or the name of a structure.
    pub kind: &'static str,
    /// The type of a single value: `kind`, resolved.
    pub value: ValueType,
    pub shape: Shape,
    /// Whether JSON distinguishes an absent value from an empty value.
    pub pointer: bool,
    /// Whether JSON omits the field if it is empty and not a pointer.
    pub omitted_when_empty: bool,
    /// Whether every object contains the field: an absent field gets its empty value.
    pub always: bool,
}

/// The objects for which a structure contains `apiVersion` and `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeMeta {
    /// The structure is a part of objects.
    None,
    /// Objects of one `apiVersion`.
    Version(&'static str),
    /// Objects of several versions.
    AnyVersion,
}

/// A structure of the API.
#[derive(Debug)]
pub struct Structure {
    /// For instance `core/v1.Pod`.
    pub name: &'static str,
    /// The objects that the structure describes.
    pub type_meta: TypeMeta,
    /// The fields in the order of their protobuf numbers.
    pub fields: Vec<Field>,
    /// The fields, with those of embedded types, in the order of their JSON names.
    named: Vec<Field>,
}

impl Structure {
    /// The name without its group and version, for instance `Pod`.
    pub fn short_name(&self) -> &'static str {
        self.name
            .rsplit_once('.')
            .map_or(self.name, |(_, name)| name)
    }

    /// The fields, with those of embedded types, in the order of their JSON names.
    pub fn by_name(&self) -> &[Field] {
        &self.named
    }

    /// The field with this JSON name; embedded types are searched, too.
    pub fn named(&self, json: &str) -> Option<&Field> {
        let index = self.named.binary_search_by(|field| field.json.cmp(json));
        index.ok().and_then(|index| self.named.get(index))
    }

    /// The field with this protobuf number.
    pub fn numbered(&self, number: u32) -> Option<&Field> {
        let index = self
            .fields
            .binary_search_by(|field| field.number.cmp(&number));
        index.ok().and_then(|index| self.fields.get(index))
    }
}

/// All types by name, for instance `core/v1.Pod`.
#[derive(Debug)]
pub struct ApiTypes {
    /// In the order of their names.
    structures: Vec<Structure>,
}

impl ApiTypes {
    /// The types of the served version; parsed at the first call.
    pub fn published() -> &'static Self {
        static TYPES: OnceLock<ApiTypes> = OnceLock::new();
        TYPES.get_or_init(|| Self::read(TEXT))
    }

    fn read(text: &'static str) -> Self {
        let mut rows: BTreeMap<&str, (TypeMeta, Vec<&'static str>)> = BTreeMap::new();
        let mut current = "";
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some(row) = line.strip_prefix('\t') {
                rows.entry(current)
                    .or_insert((TypeMeta::None, Vec::new()))
                    .1
                    .push(row);
                continue;
            }
            let (name, type_meta) = match line.split_once('\t') {
                None => (line, TypeMeta::None),
                Some((name, "*")) => (name, TypeMeta::AnyVersion),
                Some((name, version)) => (name, TypeMeta::Version(version)),
            };
            current = name;
            rows.insert(name, (type_meta, Vec::new()));
        }
        let names: BTreeMap<&str, usize> = rows.keys().copied().zip(0..).collect();
        let structures = rows.into_iter().map(|(name, (type_meta, rows))| Structure {
            name,
            type_meta,
            fields: rows.iter().filter_map(|row| field(row, &names)).collect(),
            named: Vec::new(),
        });
        let mut types = Self {
            structures: structures.collect(),
        };
        for index in 0..types.structures.len() {
            let mut named = types.flattened(index);
            named.sort_unstable_by_key(|field| field.json);
            types.structures[index].named = named;
        }
        types
    }

    /// The fields of a structure. The fields of an embedded type replace the embedded field.
    fn flattened(&self, index: usize) -> Vec<Field> {
        let fields = self.structures[index].fields.iter();
        let fields = fields.map(|field| match field.value {
            ValueType::Structure(embedded) if field.json.is_empty() => self.flattened(embedded),
            _ => vec![field.clone()],
        });
        fields.flatten().collect()
    }

    /// The structure of a kind.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Structure> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let package = match group.split('.').next().unwrap_or_default() {
            "" => "core",
            first => first,
        };
        let structure_of = self.structure(&[package, "/", version, ".", kind].concat());
        structure_of.or_else(|| self.structure(&["meta/v1.", kind].concat()))
    }

    /// The names of all types.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.structures.iter().map(|structure| structure.name)
    }

    /// The structure with this name.
    pub fn structure(&self, name: &str) -> Option<&Structure> {
        let index = self
            .structures
            .binary_search_by(|structure| structure.name.cmp(name));
        index.ok().and_then(|index| self.structures.get(index))
    }

    /// The structure of a field's values; `None` for a scalar.
    pub fn of_value(&self, value: ValueType) -> Option<&Structure> {
        match value {
            ValueType::Structure(index) => self.structures.get(index),
            _ => None,
        }
    }

    /// The fields of a type; empty for an unknown type.
    pub fn fields(&self, name: &str) -> &[Field] {
        self.structure(name)
            .map_or(&[], |structure| structure.fields.as_slice())
    }

    /// Whether a field's type is a structure of the table.
    pub fn is_structure(&self, kind: &str) -> bool {
        self.structure(kind).is_some()
    }
}

fn field(row: &'static str, structures: &BTreeMap<&str, usize>) -> Option<Field> {
    let mut words = row.split('\t');
    let (number, json, kind) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let (json, always) = without_suffix(json, '!');
    let (json, omitted_when_empty) = without_suffix(json, '?');
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
        value: value_type(kind, structures)?,
        shape,
        pointer,
        omitted_when_empty,
        always,
    })
}

fn without_suffix(text: &str, suffix: char) -> (&str, bool) {
    text.strip_suffix(suffix)
        .map_or((text, false), |text| (text, true))
}

fn value_type(kind: &str, structures: &BTreeMap<&str, usize>) -> Option<ValueType> {
    Some(match kind {
        "string" => ValueType::String,
        "bytes" => ValueType::Bytes,
        "int32" => ValueType::Int32,
        "int64" => ValueType::Int64,
        "bool" => ValueType::Bool,
        "double" => ValueType::Double,
        "Time" => ValueType::Time,
        "MicroTime" => ValueType::MicroTime,
        "Duration" => ValueType::Duration,
        "Quantity" => ValueType::Quantity,
        "Items" => ValueType::Items,
        "IntOrString" => ValueType::IntOrString,
        "Raw" => ValueType::Raw,
        name => ValueType::Structure(*structures.get(name)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// findings A16: every type of a field is a structure of the table or has its own JSON form.
    #[test]
    fn every_type_that_a_field_names_is_known() {
        let types = ApiTypes::published();
        assert!(types.structures.len() > 300);
        let rows = TEXT.lines().filter(|line| line.starts_with('\t'));
        let fields = types.structures.iter().map(|one| one.fields.len());
        assert_eq!(rows.count(), fields.sum::<usize>());
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
        let named = |name, json| types.structure(name).unwrap().named(json);
        let field = named("core/v1.Volume", "emptyDir").unwrap();
        assert!(field.pointer && field.kind == "core/v1.EmptyDirVolumeSource");
        let field = named("core/v1.PodSpec", "nodeSelector").unwrap();
        assert_eq!(field.shape, Shape::Map);
        assert!(field.omitted_when_empty);
        assert!(named("core/v1.PodSpec", "boat").is_none());
        // The field is required in the structure that embeds its type.
        let field = named("core/v1.EphemeralContainer", "name").unwrap();
        assert!(field.always && !field.omitted_when_empty);
    }

    /// The search by number and by name needs sorted fields without duplicates.
    #[test]
    fn fields_are_in_order() {
        for structure in &ApiTypes::published().structures {
            let name = structure.name;
            let fields = &structure.fields;
            assert!(
                fields.is_sorted_by(|one, next| one.number < next.number),
                "{name}"
            );
            let named = structure.by_name();
            assert!(
                named.is_sorted_by(|one, next| one.json < next.json),
                "{name}"
            );
        }
    }

    #[test]
    fn objects_have_their_version() {
        let types = ApiTypes::published();
        let of = |name| types.structure(name).unwrap().type_meta;
        assert_eq!(of("core/v1.Pod"), TypeMeta::Version("v1"));
        assert_eq!(
            of("rbac/v1.Role"),
            TypeMeta::Version("rbac.authorization.k8s.io/v1")
        );
        assert_eq!(of("meta/v1.DeleteOptions"), TypeMeta::AnyVersion);
        assert_eq!(of("core/v1.PodSpec"), TypeMeta::None);
    }
}
