use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;

use json_text::SyntaxError;
use mvcc_store::KeyValue;
use object_model::{FieldSelector, LabelSelector, Status};

use crate::catalog::registry::Resource;
use crate::http::call::Call;
use crate::objects::field_text_cache::FieldTextCache;
use crate::objects::storage;

/// The parsed label and field selectors of a list, watch or collection deletion.
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    deep: Deep,
}

/// Selected fields that are not part of the metadata.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Deep {
    Nothing,
    /// Text fields, which are read from the encoded object.
    Texts,
    /// Values that the kind derives from the decoded object.
    Object,
}

/// The text of the field at this path of a stored object.
fn text_at(stored: &KeyValue, field: &str) -> Result<Option<String>, SyntaxError> {
    let path: Vec<&str> = field.split('.').collect();
    let text = json_text::find_string(&stored.value, &path)?;
    Ok(text.map(Cow::into_owned))
}

/// The error text for a field that is not selectable. Upstream uses one text for the built-in kinds that have no
/// selectable fields of their own.
fn not_selectable(resource: &Resource, field: &str) -> String {
    let info = resource.info();
    if (info.group, info.kind) == ("batch", "Job") {
        return format!("field label {field:?} not supported for Job");
    }
    if resource.is_custom() || !resource.kind.selectable().selectable_fields().is_empty() {
        return format!("field label not supported: {field}");
    }
    format!(
        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
    )
}

impl Selection {
    /// Parses `labelSelector` and `fieldSelector`. A name in the path, as in deprecated watch URLs, selects only that
    /// name.
    ///
    /// *Errors.* 400 for an invalid selector, for unsupported fields, and for a selector that excludes the path's
    /// name.
    pub(crate) fn of(call: &Call, resource: &Resource) -> Result<Self, Status> {
        let query = &call.query;
        let labels = match query.get("labelSelector") {
            Some(text) => {
                LabelSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?
            }
            None => LabelSelector::everything(),
        };
        let text = query.get("fieldSelector").unwrap_or_default();
        let fields = FieldSelector::parse(text).map_err(|e| Status::bad_request(e.to_string()))?;
        let fields = match call.info.named {
            false => fields,
            true if fields.is_everything() => {
                FieldSelector::exactly("metadata.name", &call.info.name)
            }
            true if fields.exact("metadata.name") == Some(&call.info.name) => fields,
            true => {
                let text = "fieldSelector metadata.name doesn't match requested name";
                return Err(Status::bad_request(text));
            }
        };
        let selectable = resource.kind.selectable();
        let as_stored = resource.is_shown_as_stored();
        let mut deep = Deep::Nothing;
        for term in fields.terms() {
            let field = term.field.as_str();
            match field {
                "metadata.name" => {}
                "metadata.namespace" if resource.namespaced() => {}
                _ if as_stored && selectable.is_text_at_path(field) => deep = deep.max(Deep::Texts),
                _ if selectable.selectable_fields().contains(field) => deep = Deep::Object,
                _ => return Err(Status::bad_request(not_selectable(resource, field))),
            }
        }
        Ok(Self {
            labels,
            fields,
            deep,
        })
    }

    /// Whether the selection reads fields outside of the metadata.
    pub(crate) fn needs_objects(&self) -> bool {
        self.deep != Deep::Nothing
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The only name that can match; `None` if several names can match.
    pub(crate) fn only_name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// The only namespace that can match; `None` if several namespaces can match.
    pub(crate) fn only_namespace(&self) -> Option<&str> {
        self.fields.exact("metadata.namespace")
    }

    /// Whether a stored object is selected. Decodes no more of the object than needed.
    pub(crate) fn matches(&self, resource: &Resource, stored: &KeyValue) -> Result<bool, Status> {
        self.matches_with(resource, stored, |field| text_at(stored, field))
    }

    /// As [`matches`](Self::matches), for the object of an event; other watches evaluate the event, too, so field
    /// texts are cached.
    pub(crate) fn matches_in_event(
        &self,
        resource: &Resource,
        stored: &KeyValue,
        texts: &FieldTextCache,
    ) -> Result<bool, Status> {
        self.matches_with(resource, stored, |field| {
            texts.text(stored, field, || text_at(stored, field))
        })
    }

    /// `text` reads a field of the stored object.
    fn matches_with(
        &self,
        resource: &Resource,
        stored: &KeyValue,
        text: impl Fn(&str) -> Result<Option<String>, SyntaxError>,
    ) -> Result<bool, Status> {
        if !self.labels.is_everything() && !self.matches_labels(resource, stored)? {
            return Ok(false);
        }
        if self.fields.is_everything() {
            return Ok(true);
        }
        let object = match self.deep {
            Deep::Object => Some(storage::decode(resource, stored)?),
            Deep::Nothing | Deep::Texts => None,
        };
        let (namespace, name) = resource.names(&stored.key);
        let undecodable = Cell::new(None);
        let matches = self.fields.matches_by(|field| match (field, &object) {
            ("metadata.name", _) => Some(name.to_owned()),
            ("metadata.namespace", _) => Some(namespace.to_owned()),
            (_, Some(object)) => resource.kind.selectable().selectable_field(object, field),
            (_, None) => text(field).unwrap_or_else(|error| {
                undecodable.set(Some(error));
                None
            }),
        });
        match undecodable.into_inner() {
            Some(error) => {
                let why = storage::undecodable(error);
                Err(storage::unreadable(resource, stored, &why))
            }
            None => Ok(matches),
        }
    }

    fn matches_labels(&self, resource: &Resource, stored: &KeyValue) -> Result<bool, Status> {
        storage::check_form(resource, stored)?;
        let encoded = json_text::find(&stored.value, &["metadata", "labels"]);
        let labels = encoded.map_err(storage::undecodable);
        let labels = labels.and_then(|labels| match labels {
            Some(labels) => serde_json::from_slice(labels).map_err(storage::undecodable),
            None => Ok(BTreeMap::<String, String>::new()),
        });
        let labels = labels.map_err(|why| storage::unreadable(resource, stored, &why))?;
        Ok(self
            .labels
            .matches_by(|key| labels.get(key).map(String::as_str)))
    }
}
