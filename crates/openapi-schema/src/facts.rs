//! Published facts that the Rust types do not have: how lists and maps merge, which fields are required,
//! and defaults. They are tables (`data/*.tsv`) that `cargo xtask tables` writes; this reads them.

use std::borrow::Cow;
use std::collections::BTreeMap;

const TABLE: &str = include_str!("../data/merge_facts.tsv");
const REQUIRED: &str = include_str!("../data/required.tsv");
const DEFAULTS: &str = include_str!("../data/defaults.tsv");

/// `x-kubernetes-list-type`: the identity of list elements in server-side apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Scalar elements are unique.
    Set,
    /// Each element is known by its map keys.
    Map,
}

/// `x-kubernetes-map-type`: whether the entries of a map have owners of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapType {
    /// Each entry is merged separately.
    #[default]
    Granular,
    /// The map is one value.
    Atomic,
}

/// The facts about one field (or about a type as a whole). Those of custom kinds own their strings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub list_type: Option<ListType>,
    /// Comma-separated, empty for none.
    pub list_map_keys: Cow<'static, str>,
    pub map_type: Option<MapType>,
    /// As published: `merge`, `merge,retainKeys`, `retainKeys`, `replace`; empty for none.
    pub patch_strategy: &'static str,
    /// Empty for none.
    pub patch_merge_key: &'static str,
    /// `{}` for a structure that is always present, or the default of a list's key; else empty.
    pub default: Cow<'static, str>,
}

/// All facts, by definition and field (`-` for the type itself).
pub(crate) struct FactTable(BTreeMap<(&'static str, &'static str), Facts>);

impl FactTable {
    pub fn published() -> Self {
        let mut rows = BTreeMap::new();
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let mut columns = line
                .split('\t')
                .map(|cell| if cell == "-" { "" } else { cell });
            let mut next = || columns.next().unwrap_or_default();
            let (definition, field) = (next(), next());
            let facts = Facts {
                list_type: list_type(next()),
                list_map_keys: next().into(),
                map_type: map_type(next()),
                patch_strategy: next(),
                patch_merge_key: next(),
                default: Cow::Borrowed(""),
            };
            rows.insert((definition, field), facts);
        }
        for line in DEFAULTS.lines().filter(|line| !line.starts_with('#')) {
            let mut columns = line.split('\t');
            let mut next = || columns.next().unwrap_or_default();
            let row: &mut Facts = rows.entry((next(), next())).or_default();
            row.default = next().into();
        }
        Self(rows)
    }

    /// The facts about a field; an empty field name asks about the type itself.
    pub fn get(&self, definition: &str, field: &str) -> Facts {
        self.0
            .get(&(definition, field))
            .cloned()
            .unwrap_or_default()
    }

    #[cfg(test)]
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.0.keys().copied()
    }
}

/// The required fields of the published definitions. A definition without a row requires nothing.
pub(crate) fn required() -> BTreeMap<&'static str, Vec<&'static str>> {
    let rows = REQUIRED.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|row| row.split_once('\t'))
        .map(|(definition, fields)| (definition, fields.split(',').collect()))
        .collect()
}

fn list_type(text: &str) -> Option<ListType> {
    match text {
        "atomic" => Some(ListType::Atomic),
        "set" => Some(ListType::Set),
        "map" => Some(ListType::Map),
        _ => None,
    }
}

fn map_type(text: &str) -> Option<MapType> {
    match text {
        "atomic" => Some(MapType::Atomic),
        "granular" => Some(MapType::Granular),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::FactTable;
    use crate::graph::Graph;

    /// findings A16: a row that names a field that its type does not have is out of date.
    #[test]
    fn every_fact_is_about_a_field_that_exists() {
        let graph = Graph::published();
        for (definition, field) in FactTable::published().rows() {
            let known = graph
                .definitions
                .iter()
                .find(|known| *known.name == *definition);
            let Some(known) = known else {
                continue; // a kind that is not served
            };
            assert!(
                field.is_empty() || known.field(field).is_some(),
                "{definition} {field}"
            );
        }
    }
}
