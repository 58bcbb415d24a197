//! Test objects, and helpers to apply and change them.

use json_tree::{Value, json};
use openapi_documents::{Schema, TypeRef};
use structured_merge::apply::{ApplyError, OwnableFields, Writer, apply, track};

pub const T0: &str = "2026-01-01T00:00:00Z";
pub const T1: &str = "2026-01-01T00:00:01Z";

pub fn kind(group: &str, name: &str) -> TypeRef<'static> {
    Schema::published()
        .lookup(group, "v1", name)
        .expect("a served kind")
}

pub fn writer<'a>(manager: &'a str, api_version: &'a str, now: &'a str) -> Writer<'a> {
    Writer {
        manager,
        api_version,
        subresource: "",
        now,
    }
}

/// Test objects of one kind.
pub struct Bench {
    pub object_type: TypeRef<'static>,
    pub api_version: &'static str,
    pub now: &'static str,
}

impl Bench {
    pub fn config_maps() -> Self {
        Self {
            object_type: kind("", "ConfigMap"),
            api_version: "v1",
            now: T0,
        }
    }

    pub fn sets() -> Self {
        Self {
            object_type: kind("apps", "StatefulSet"),
            api_version: "apps/v1",
            now: T0,
        }
    }

    pub fn pods() -> Self {
        Self {
            object_type: kind("", "Pod"),
            ..Self::config_maps()
        }
    }

    pub fn try_apply(
        &self,
        live: Option<&Value>,
        manager: &str,
        config: &Value,
        force: bool,
    ) -> Result<Value, ApplyError> {
        let writer = writer(manager, self.api_version, self.now);
        let reach = OwnableFields::AllBut(&["status"]);
        apply(live, config, self.object_type, &writer, reach, force)
    }

    pub fn apply(&self, live: Option<&Value>, manager: &str, config: &Value) -> Value {
        self.try_apply(live, manager, config, false)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn update(&self, live: Option<&Value>, manager: &str, object: &Value) -> Value {
        let mut object = object.clone();
        let writer = writer(manager, self.api_version, self.now);
        let reach = OwnableFields::AllBut(&["status"]);
        track(live, &mut object, self.object_type, &writer, reach);
        object
    }

    /// Updates the object by changing the live object.
    pub fn edit(&self, live: &Value, manager: &str, edit: impl FnOnce(&mut Value)) -> Value {
        let mut object = live.clone();
        edit(&mut object);
        self.update(Some(live), manager, &object)
    }
}

/// `manager operation` and the fields of each entry.
pub fn owners(object: &Value) -> Vec<(String, Value)> {
    let list = object["metadata"]["managedFields"].as_array();
    list.into_iter()
        .flatten()
        .map(|entry| {
            let text = |field: &str| entry[field].as_str().unwrap_or_default();
            let who = format!("{} {}", text("manager"), text("operation"));
            (who, entry["fieldsV1"].clone())
        })
        .collect()
}

pub fn owner(object: &Value, who: &str) -> Value {
    owners(object)
        .into_iter()
        .find_map(|(name, fields)| (name == who).then_some(fields))
        .unwrap_or_default()
}

pub fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "c", "namespace": "default"}, "data": data})
}

pub fn conflicts(outcome: Result<Value, ApplyError>) -> Vec<(String, String)> {
    match outcome {
        Err(ApplyError::Conflicts(conflicts)) => conflicts
            .into_iter()
            .map(|conflict| (conflict.manager, conflict.field))
            .collect(),
        other => panic!("no conflicts but {other:?}"),
    }
}
