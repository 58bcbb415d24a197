//! One version of a kind that a CustomResourceDefinition defines.

use std::sync::Arc;

use jiff::Timestamp;
use json_tree::{Map, Value, json};
use object_model::{FieldError, FieldErrorType, FieldPath};
use resource_kinds::{
    Cell, Column, DecodeError, Kind, KindInfo, Printer, Scalable, Selectable, StatusUpdate, Words,
};

use crate::columns::Columns;
use crate::combinations::NO_FIELD;
use crate::conversion::StorageForm;
use crate::definition_fields::{condition, is_terminating, versions};
use crate::deprecation;
use crate::facts::Facts;
use crate::json_path::JsonPath;
use crate::object_meta;
use crate::rules::broken_rules;
use crate::schema::Schema;
use crate::shape::{Fields, default, drop_nulls, prune, unknown};
use crate::validate::validate;

/// A kind for one version of a definition.
#[derive(Debug)]
pub struct CustomKind {
    facts: Facts,
    schema: Schema,
    columns: Columns,
    scale: Option<ScalePaths>,
    /// The selectable fields: their names in selectors, and their paths.
    selectable: Vec<String>,
    selected: Vec<JsonPath>,
    deprecation: Option<String>,
}

#[derive(Debug)]
struct ScalePaths {
    desired: JsonPath,
    /// The text of `desired`.
    desired_path: String,
    current: JsonPath,
    selector: Option<JsonPath>,
}

/// A version of a definition.
pub struct DefinedVersion {
    pub kind: Arc<dyn Kind>,
    /// `openAPIV3Schema` of the version, unchanged.
    pub schema: Value,
    /// The stored form of the objects; `None` if the definition has no storage version.
    pub storage: Option<Arc<StorageForm>>,
}

/// The versions of a definition that are served; empty until its names are accepted.
///
/// If a definition is being deleted, its storage version is served in any case, because its objects are listed and
/// deleted through that version.
pub fn served_versions(definition: &Value) -> Vec<DefinedVersion> {
    versions_where(definition, |version| is_served(definition, version))
}

/// The versions of a definition that are described, but not served.
pub fn withdrawn_versions(definition: &Value) -> Vec<DefinedVersion> {
    versions_where(definition, |version| !is_served(definition, version))
}

fn is_served(definition: &Value, version: &Value) -> bool {
    if version["served"] == true {
        return true;
    }
    let holds_objects = is_terminating(definition) && version["storage"] == true;
    if holds_objects {
        cov_mark::hit!(findings_2_r27);
    }
    holds_objects
}

fn versions_where(definition: &Value, which: impl Fn(&Value) -> bool) -> Vec<DefinedVersion> {
    let holds = |name: &str| condition(definition, name) == Some("True");
    // Another definition may have taken over the names; this must not prevent the deletion of the objects.
    let ends = is_terminating(definition) && holds("Established");
    if !holds("NamesAccepted") && !ends {
        return Vec::new();
    }
    let storage = StorageForm::from_definition(definition).map(Arc::new);
    let chosen = versions(definition).iter().filter(|version| which(version));
    chosen
        .map(|version| DefinedVersion {
            kind: Arc::new(CustomKind::new(definition, version)),
            schema: version["schema"]["openAPIV3Schema"].clone(),
            storage: storage.clone(),
        })
        .collect()
}

impl CustomKind {
    fn new(definition: &Value, version: &Value) -> Self {
        let path = |value: &Value| JsonPath::of_names(value.as_str()?);
        let scale = &version["subresources"]["scale"];
        let selectable = version["selectableFields"].as_array().into_iter().flatten();
        let (selectable, selected) = selectable
            .filter_map(|field| {
                let name = field["jsonPath"].as_str()?;
                let path = JsonPath::of_names(name)?;
                Some((name.trim_start_matches('.').to_owned(), path))
            })
            .unzip();
        Self {
            facts: Facts::from_definition(definition, version),
            schema: Schema::parse(&version["schema"]["openAPIV3Schema"]),
            columns: Columns::from_version(version),
            scale: path(&scale["specReplicasPath"])
                .zip(path(&scale["statusReplicasPath"]))
                .map(|(desired, current)| ScalePaths {
                    desired,
                    desired_path: scale["specReplicasPath"]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned(),
                    current,
                    selector: path(&scale["labelSelectorPath"]),
                }),
            selectable,
            selected,
            deprecation: deprecation::warning(definition, version),
        }
    }

    /// The schema of the objects.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    fn judge(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = validate(object, old, &self.schema);
        if !self.schema.has_rules {
            return errors;
        }
        // As upstream, rules are not evaluated for a value of another type or size than they expect.
        match errors.iter().any(blocks_rules) {
            true => errors.push(FieldError::invalid(
                &FieldPath::root(NO_FIELD),
                "null",
                "some validation rules were not checked because the object was invalid; correct the existing errors \
                 to complete validation",
            )),
            false => errors.extend(broken_rules(object, old, &self.schema)),
        }
        errors
    }
}

fn blocks_rules(error: &FieldError) -> bool {
    matches!(
        error.kind,
        FieldErrorType::NotSupported
            | FieldErrorType::Required
            | FieldErrorType::TooLong
            | FieldErrorType::TooMany
            | FieldErrorType::TypeInvalid
    )
}

/// Maximum number of unknown fields that are named, as for other kinds.
const UNKNOWN_FIELDS_MAX: usize = 100;

impl Kind for CustomKind {
    fn info(&self) -> KindInfo<'_> {
        self.facts.info()
    }

    fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        let mut object = object;
        let Some(map) = object.as_object_mut() else {
            return Err(DecodeError::NotObject);
        };
        // Objects of all versions are stored under one key; versions differ only in the name.
        let info = self.facts.info();
        map.insert("apiVersion".to_owned(), info.api_version().into());
        map.insert("kind".to_owned(), info.kind.into());
        object_meta::decode(&mut object, &self.schema)?;
        prune(&mut object, &self.schema);
        drop_nulls(&mut object, &self.schema);
        Ok(object)
    }

    fn unknown_fields(&self, object: &Value) -> Option<Vec<String>> {
        let mut paths = object_meta::unknown(object);
        let mut pruned = unknown(object, &self.schema, Fields::OfObject);
        pruned.sort_unstable();
        paths.extend(pruned);
        paths.extend(object_meta::unknown_in_embedded(object, &self.schema));
        paths.truncate(UNKNOWN_FIELDS_MAX);
        Some(paths)
    }

    fn default(&self, object: &mut Value) {
        default(object, &self.schema);
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        self.judge(object, None)
    }

    fn validate_content_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        self.judge(object, Some(old))
    }

    fn validates_long(&self) -> bool {
        self.schema.has_loops
    }

    fn repair(&self, object: &mut Value) -> Vec<String> {
        object_meta::repair(object)
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }

    fn scalable(&self) -> Option<&dyn Scalable> {
        let paths = self.scale.as_ref()?;
        Some(paths)
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }
}

impl Printer for CustomKind {
    fn columns(&self) -> Vec<Column<'_>> {
        self.columns.headings()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        self.columns.row(object, now)
    }
}

/// Restores everything except the status and the managed fields.
fn restore_all_but_status(object: &mut Value, old: &Value) {
    cov_mark::hit!(findings_2_e1);
    let status = object.get_mut("status").map(Value::take);
    let managed = object["metadata"].get_mut("managedFields").map(Value::take);
    old.clone_into(object);
    replace(object, "status", status);
    replace(&mut object["metadata"], "managedFields", managed);
}

/// Sets a field, or removes it.
fn replace(object: &mut Value, name: &str, value: Option<Value>) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    match value {
        Some(value) => {
            map.insert(name.to_owned(), value);
        }
        None => {
            map.shift_remove(name);
        }
    }
}

impl StatusUpdate for CustomKind {
    /// The update may change only the status and the managed fields.
    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        restore_all_but_status(object, old);
    }

    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        self.judge(object, Some(old))
    }
}

impl Selectable for CustomKind {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let index = self.selectable.iter().position(|name| name == field)?;
        let value = self.selected.get(index)?.first(object);
        Some(match value {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        })
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Owned(&self.selectable)
    }
}

impl Scalable for ScalePaths {
    fn scale(&self, object: &Value) -> Value {
        let number = |path: &JsonPath| {
            path.first(object)
                .and_then(Value::as_i64)
                .unwrap_or_default()
        };
        let selector = self
            .selector
            .as_ref()
            .and_then(|path| path.first(object)?.as_str());
        let mut status = json!({"replicas": number(&self.current)});
        if let Some(selector) = selector {
            status["selector"] = selector.into();
        }
        let meta = &object["metadata"];
        let mut scale = Map::new();
        for name in [
            "name",
            "namespace",
            "uid",
            "resourceVersion",
            "creationTimestamp",
        ] {
            if let Some(value) = meta.get(name) {
                scale.insert(name.to_owned(), value.clone());
            }
        }
        json!({
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": scale,
            "spec": {"replicas": number(&self.desired)},
            "status": status,
        })
    }

    fn missing_replicas(&self, object: &Value) -> Option<&str> {
        let is_missing = self.desired.first(object).is_none_or(Value::is_null);
        is_missing.then_some(&*self.desired_path)
    }

    fn set_scale(&self, object: &mut Value, scale: &Value) -> Vec<FieldError> {
        let desired = &scale["spec"]["replicas"];
        let at = FieldPath::root("spec").child("replicas");
        match desired.as_i64() {
            None if desired.is_null() => {
                self.desired.set(object, json!(0));
                Vec::new()
            }
            Some(number) if number >= 0 => {
                self.desired.set(object, json!(number));
                Vec::new()
            }
            _ => vec![FieldError::invalid(
                &at,
                desired.clone(),
                "must be greater than or equal to 0",
            )],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({"metadata": {"name": "boats.example.org"},
            "spec": {"group": "example.org", "scope": "Namespaced",
                "names": {"plural": "boats", "singular": "boat", "kind": "Boat", "listKind": "BoatList",
                    "shortNames": ["bt"]},
                "versions": [
                    {"name": "v1", "served": true, "storage": true,
                     "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.crew",
                        "statusReplicasPath": ".status.crew", "labelSelectorPath": ".status.selector"}},
                     "additionalPrinterColumns": [
                        {"name": "Crew", "type": "integer", "jsonPath": ".spec.crew"},
                        {"name": "Made", "type": "date", "jsonPath": ".metadata.creationTimestamp", "priority": 1}],
                     "selectableFields": [{"jsonPath": ".spec.colour"}],
                     "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                        "spec": {"type": "object", "properties": {
                            "crew": {"type": "integer", "default": 2, "maximum": 9},
                            "colour": {"type": "string"}},
                            "x-kubernetes-validations": [{"rule": "!has(self.colour) || self.colour != 'pink'",
                                "message": "not pink"}]},
                        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}},
                    {"name": "v0", "served": false, "storage": false,
                     "schema": {"openAPIV3Schema": {"type": "object"}}}]},
            "status": {"conditions": [{"type": "NamesAccepted", "status": "True"}]}})
    }

    fn boat() -> Arc<dyn Kind> {
        served_versions(&definition()).remove(0).kind
    }

    #[test]
    fn only_served_versions_of_accepted_names_are_kinds() {
        assert_eq!(served_versions(&definition()).len(), 1);
        let withdrawn = withdrawn_versions(&definition());
        assert_eq!(withdrawn[0].kind.info().version, "v0");
        let mut waiting = definition();
        waiting["status"] = json!({});
        assert!(served_versions(&waiting).is_empty());
        let boat = boat();
        let info = boat.info();
        assert_eq!(
            (info.group, info.version, info.plural),
            ("example.org", "v1", "boats")
        );
        assert!(info.has_subresource("status") && info.has_subresource("scale"));
        let status = info.subresources[0];
        assert_eq!(info.body(&status), ("example.org", "v1", "Boat"));
    }

    // findings-2 C34
    #[test]
    fn unknown_fields_are_those_that_go() {
        let template = json!({"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}});
        let mut definition = definition();
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({
            "type": "object", "properties": {
                "one": template, "many": {"type": "array", "items": template},
                "named": {"type": "object", "additionalProperties": template}}});
        let boat = served_versions(&definition).remove(0).kind;
        let embedded = json!({"free": 1, "spec": {"a": "b", "no": 1},
            "metadata": {"name": "a", "nme": "b", "ownerReferences": [{"no": 1}]}});
        let object = json!({"metadata": {"nme": "b", "Name": "c"}, "junk": 1, "status": {"x": 1},
            "spec": {"one": embedded, "many": [{}, embedded], "named": {"x": embedded}, "no": 1}});
        let unknown = boat.unknown_fields(&object).unwrap();
        let expected = [
            "metadata.Name",
            "metadata.nme",
            "junk",
            "spec.many[1].spec.no",
            "spec.named.x.spec.no",
            "spec.no",
            "spec.one.spec.no",
            "spec.many[1].metadata.nme",
            "spec.many[1].metadata.ownerReferences[0].no",
            "spec.named[x].metadata.nme",
            "spec.named[x].metadata.ownerReferences[0].no",
            "spec.one.metadata.nme",
            "spec.one.metadata.ownerReferences[0].no",
        ];
        assert_eq!(unknown, expected);
        let decoded = boat.decode(object).unwrap();
        assert_eq!(boat.unknown_fields(&decoded), Some(Vec::new()));
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-preserve-unknown-fields"] =
            json!(true);
        let open = served_versions(&definition).remove(0).kind;
        let object = json!({"metadata": {"nme": "b"}, "junk": {"x": 1}, "spec": {"junk": 1}});
        let unknown = open.unknown_fields(&object).unwrap();
        assert_eq!(unknown, ["metadata.nme", "spec.junk"]);
        let junk: Map<String, Value> = (0..1000).map(|n| (format!("j{n}"), n.into())).collect();
        let unknown = boat.unknown_fields(&junk.into()).unwrap();
        assert_eq!(unknown.len(), 100);
    }

    // findings-2 R27
    #[test]
    fn the_objects_of_a_deleted_definition_are_reached_through_its_storage_version() {
        cov_mark::check!(findings_2_r27);
        let mut definition = definition();
        definition["spec"]["versions"][0]["served"] = json!(false);
        assert!(served_versions(&definition).is_empty());
        definition["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let served = served_versions(&definition);
        let info = served[0].kind.info();
        assert_eq!((served.len(), info.version), (1, "v1"));
        assert!(!info.verbs.contains(&resource_kinds::Verb::Create));
        definition["status"]["conditions"] = json!([
            {"type": "NamesAccepted", "status": "False"}, {"type": "Established", "status": "True"}]);
        assert_eq!(served_versions(&definition).len(), 1);
    }

    // findings-2 E1
    #[test]
    fn an_update_of_the_status_changes_nothing_else() {
        cov_mark::check!(findings_2_e1);
        let kind = boat();
        let old = json!({"metadata": {"name": "a", "finalizers": ["a/b"], "labels": {"a": "b"},
            "managedFields": [{"manager": "old"}]}, "spec": {"crew": 1}, "status": {"crew": 1}});
        let mut new = json!({"metadata": {"name": "a", "labels": {"a": "c"}, "ownerReferences": [{}],
            "annotations": {"a": "b"}, "managedFields": [{"manager": "new"}]},
            "spec": {"crew": 2}, "status": {"crew": 2}, "other": 1});
        kind.status_update().prepare_status_update(&mut new, &old);
        let mut expected = old.clone();
        expected["status"]["crew"] = json!(2);
        expected["metadata"]["managedFields"] = json!([{"manager": "new"}]);
        assert_eq!(new, expected);
        let mut none = json!({"metadata": {"name": "a"}});
        kind.status_update().prepare_status_update(&mut none, &old);
        assert!(none.get("status").is_none() && none["metadata"].get("managedFields").is_none());
        assert_eq!(none["spec"], old["spec"]);
    }

    // findings-2 E2, E4
    #[test]
    fn metadata_are_decoded_and_nulls_are_dropped() {
        let kind = boat();
        for wrong in [
            json!({"labels": {"a": 1}}),
            json!({"finalizers": "a/b"}),
            json!("x"),
        ] {
            let error = kind.decode(json!({"metadata": wrong})).unwrap_err();
            assert!(
                error.to_string().starts_with("json: cannot unmarshal"),
                "{error}"
            );
        }
        let object =
            json!({"metadata": {"name": "a", "nme": "b"}, "spec": {"crew": null, "colour": null}});
        let object = kind.decode(object).unwrap();
        assert_eq!(object["metadata"], json!({"name": "a"}));
        assert_eq!(object["spec"], json!({"crew": null}));
    }

    #[test]
    fn objects_are_pruned_defaulted_and_judged() {
        let kind = boat();
        let object = json!({"apiVersion": "example.org/v0", "kind": "Boat",
            "metadata": {"name": "a", "namespace": "b"}, "spec": {"colour": "pink", "sails": 3}});
        let mut object = kind.decode(object).unwrap();
        kind.default(&mut object);
        assert_eq!(object["spec"], json!({"colour": "pink", "crew": 2}));
        assert_eq!(object["apiVersion"], "example.org/v1");
        let errors: Vec<String> = kind
            .validate_create(&object)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(errors, ["spec: Invalid value: not pink"]);
        object["spec"] = json!({"crew": 10});
        let errors: Vec<String> = kind
            .validate_create(&object)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            errors,
            ["spec.crew: Invalid value: 10: spec.crew in body should be less than or equal to 9"]
        );
    }

    #[test]
    fn tables_scales_and_selectors_follow_the_definition() {
        let kind = boat();
        let mut object = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"crew": 4, "colour": "red"}, "status": {"crew": 3, "selector": "a=b"}});
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(kind.row(&object, now), [json!("a"), json!(4), json!("60s")]);
        assert_eq!(kind.columns().len(), 3);
        let scalable = kind.scalable().unwrap();
        let scale = scalable.scale(&object);
        assert_eq!(scale["spec"]["replicas"], 4);
        assert_eq!(scale["status"], json!({"replicas": 3, "selector": "a=b"}));
        assert!(
            scalable
                .set_scale(&mut object, &json!({"spec": {"replicas": 7}}))
                .is_empty()
        );
        assert_eq!(object["spec"]["crew"], 7);
        assert_eq!(
            kind.selectable()
                .selectable_field(&object, "spec.colour")
                .as_deref(),
            Some("red")
        );
        assert_eq!(
            kind.selectable().selectable_field(&object, "spec.other"),
            None
        );
    }
}
