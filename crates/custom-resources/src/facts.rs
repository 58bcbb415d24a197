//! The properties of a custom kind, from its definition.

use json_tree::Value;
use resource_kinds::info::{ALL, SCALE, STATUS, WITHOUT_CREATE};
use resource_kinds::{KindInfo, Scope, Subresource, Verb, Words, WriteRules};

use crate::definition_fields::is_terminating;

/// The properties of one version of a definition. The struct owns its strings, which are dropped with the kind.
#[derive(Debug)]
pub(crate) struct Facts {
    group: String,
    version: String,
    kind: String,
    list_kind: String,
    plural: String,
    singular: String,
    short_names: Vec<String>,
    categories: Vec<String>,
    scope: Scope,
    verbs: &'static [Verb],
    subresources: &'static [Subresource],
    storage: String,
}

impl Facts {
    pub(crate) fn from_definition(definition: &Value, version: &Value) -> Self {
        let spec = &definition["spec"];
        let names = &spec["names"];
        let parts = &version["subresources"];
        let (group, plural) = (text(&spec["group"]), text(&names["plural"]));
        Self {
            storage: format!("{group}/{plural}"),
            group,
            version: text(&version["name"]),
            kind: text(&names["kind"]),
            list_kind: text(&names["listKind"]),
            plural,
            singular: text(&names["singular"]),
            short_names: texts(&names["shortNames"]),
            categories: texts(&names["categories"]),
            scope: match spec["scope"] == "Cluster" {
                true => Scope::Cluster,
                false => Scope::Namespaced,
            },
            verbs: match is_terminating(definition) {
                true => WITHOUT_CREATE,
                false => ALL,
            },
            subresources: match (parts["status"].is_object(), parts["scale"].is_object()) {
                (true, true) => &[STATUS, SCALE],
                (true, false) => &[STATUS],
                (false, true) => &[SCALE],
                (false, false) => &[],
            },
        }
    }

    pub(crate) fn info(&self) -> KindInfo<'_> {
        KindInfo {
            group: &self.group,
            version: &self.version,
            kind: &self.kind,
            list_kind: &self.list_kind,
            plural: &self.plural,
            singular: &self.singular,
            short_names: Words::Owned(&self.short_names),
            categories: Words::Owned(&self.categories),
            scope: self.scope,
            verbs: self.verbs,
            subresources: self.subresources,
            storage: &self.storage,
            writes: WriteRules {
                has_generation: true,
                unconditional_update: false,
                ..WriteRules::ORDINARY
            },
        }
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().map(text).collect()
}
