//! Published facts about fields and types: how lists and maps merge, and defaults.

use std::borrow::Cow;

/// `x-kubernetes-list-type`: the identity of list elements in server-side apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Scalar elements are unique.
    Set,
    /// Elements are identified by their map keys.
    Map,
}

/// `x-kubernetes-map-type`: whether the entries of a map have separate owners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MapType {
    /// Each entry is merged separately.
    #[default]
    Granular,
    /// The map is one value.
    Atomic,
}

/// The facts about one field (or about a whole type). Facts of custom kinds own their strings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub list_type: Option<ListType>,
    /// `x-kubernetes-list-map-keys`, separated by commas; empty if absent.
    pub list_map_keys: Cow<'static, str>,
    pub map_type: Option<MapType>,
    /// As published: `merge`, `merge,retainKeys`, `retainKeys`, `replace`; empty if absent.
    pub patch_strategy: &'static str,
    /// `x-kubernetes-patch-merge-key`; empty if absent.
    pub patch_merge_key: &'static str,
    /// `{}` for a structure that is always present, or the default of a key field of a list; otherwise empty.
    pub default: Cow<'static, str>,
}

#[cfg(test)]
mod tests {
    use crate::graph::Graph;
    use crate::published_facts::rows;

    /// findings A16: a row about a field that its type does not contain is out of date.
    #[test]
    fn every_fact_is_about_a_field_that_exists() {
        let graph = Graph::PUBLISHED;
        for (definition, field) in rows().into_keys() {
            let Some(object_type) = graph.definition_named(definition) else {
                continue; // The kind is not served.
            };
            assert!(
                field.is_empty() || graph.field(object_type, field).is_some(),
                "{definition} {field}"
            );
        }
    }
}
