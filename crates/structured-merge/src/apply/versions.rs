//! Managers that wrote an object in other versions than the present version. Their fields are stored in their own
//! version, so the objects, and not the fields, are converted.

use std::borrow::Cow;
use std::collections::BTreeMap;

use json_tree::Value;
use openapi_documents::TypeRef;

use super::OwnableFields;
use super::compare::compare;
use super::form::MergeForm;
use super::set::FieldSet;

/// The other versions of a kind.
pub trait Versions {
    /// The type of the objects in a version; `None` if the version does not exist (any longer).
    fn type_in(&self, api_version: &str) -> Option<TypeRef<'_>>;

    /// Converts an object to another version; `None` if the conversion is impossible.
    fn convert(&self, object: &Value, api_version: &str) -> Option<Value>;
}

/// The type of an object in the version of the write, and its other versions.
#[derive(Clone, Copy)]
pub struct ObjectType<'s> {
    pub(super) base_type: TypeRef<'s>,
    others: Option<&'s dyn Versions>,
}

impl<'s> From<TypeRef<'s>> for ObjectType<'s> {
    /// The type of a kind that has only one version.
    fn from(object_type: TypeRef<'s>) -> Self {
        Self {
            base_type: object_type,
            others: None,
        }
    }
}

impl<'s> ObjectType<'s> {
    /// The type of a kind with several versions.
    pub fn with_others(object_type: TypeRef<'s>, others: &'s dyn Versions) -> Self {
        let others = Some(others);
        Self {
            base_type: object_type,
            others,
        }
    }

    /// The merge form of the objects in a version; `written` is the version of the write.
    pub(super) fn form_in(&self, api_version: &str, written: &str) -> Option<MergeForm<'s>> {
        if api_version == written {
            return Some(MergeForm::of_type(self.base_type));
        }
        self.others?.type_in(api_version).map(MergeForm::of_type)
    }

    /// Converts an object from the version `from` to another version.
    pub(super) fn convert<'v>(
        &self,
        object: &'v Value,
        from: &str,
        to: &str,
    ) -> Option<Cow<'v, Value>> {
        if from == to {
            return Some(Cow::Borrowed(object));
        }
        self.others?.convert(object, to).map(Cow::Owned)
    }
}

/// The changes of a write, in other versions.
pub(super) struct OtherVersions<'a> {
    pub object_type: ObjectType<'a>,
    /// The version of the write, and the fields that its writer can own.
    pub written: &'a str,
    pub reach: OwnableFields<'a>,
    pub old: &'a Value,
    pub new: &'a Value,
    by_version: BTreeMap<String, VersionChanges>,
}

/// The changes of a write, in one other version.
pub(super) enum VersionChanges {
    /// The changed fields, and the removed fields.
    Changes(FieldSet<'static>, FieldSet<'static>),
    /// The changed fields cannot be determined in this version.
    Unknown,
    /// The version no longer exists: its managers are removed.
    Removed,
}

impl<'a> OtherVersions<'a> {
    pub fn new(
        object_type: ObjectType<'a>,
        written: &'a str,
        reach: OwnableFields<'a>,
        old: &'a Value,
        new: &'a Value,
    ) -> Self {
        Self {
            object_type,
            written,
            reach,
            old,
            new,
            by_version: BTreeMap::new(),
        }
    }

    pub fn changes(&mut self, api_version: &str) -> &VersionChanges {
        if !self.by_version.contains_key(api_version) {
            let view = self.compute_changes(api_version);
            self.by_version.insert(api_version.to_owned(), view);
        }
        self.by_version
            .get(api_version)
            .unwrap_or(&VersionChanges::Unknown)
    }

    fn compute_changes(&self, api_version: &str) -> VersionChanges {
        let Some(form) = self.object_type.form_in(api_version, self.written) else {
            return VersionChanges::Removed;
        };
        let convert = |object: &'a Value| match object.as_object() {
            // The object did not exist.
            Some(fields) if fields.is_empty() => Some(Cow::Borrowed(object)),
            _ => self.object_type.convert(object, self.written, api_version),
        };
        let (Some(old), Some(new)) = (convert(self.old), convert(self.new)) else {
            return VersionChanges::Unknown;
        };
        let mut changes = compare(form, &old, &new);
        changes.retain_top(|field| self.reach.has(field));
        let (set, removed) = changes.split();
        VersionChanges::Changes(set.into_owned(), removed.into_owned())
    }
}
