//! Managers who wrote an object in other versions than the present one. Their fields are stored in
//! their version, so the objects are converted to it, and not the fields.

use std::borrow::Cow;
use std::collections::BTreeMap;

use json_tree::Value;
use openapi_schema::TypeRef;

use super::OwnableFields;
use super::compare::compare;
use super::form::MergeForm;
use super::set::FieldSet;

/// The other versions that the objects of a kind may have.
pub trait Versions {
    /// The type of the objects in a version; `None` if the version does not exist (any longer).
    fn type_in(&self, api_version: &str) -> Option<TypeRef<'_>>;

    /// An object, converted from its version to another one; `None` if that is impossible.
    fn convert(&self, object: &Value, api_version: &str) -> Option<Value>;
}

/// The type of an object in the version of the write, and its other versions.
#[derive(Clone, Copy)]
pub struct ObjectType<'s> {
    pub(super) own: TypeRef<'s>,
    others: Option<&'s dyn Versions>,
}

impl<'s> From<TypeRef<'s>> for ObjectType<'s> {
    /// Of a kind with one version alone.
    fn from(own: TypeRef<'s>) -> Self {
        Self { own, others: None }
    }
}

impl<'s> ObjectType<'s> {
    /// The type of a kind with several versions.
    pub fn with_others(own: TypeRef<'s>, others: &'s dyn Versions) -> Self {
        let others = Some(others);
        Self { own, others }
    }

    /// The merge behaviour of the objects in a version, where `written` is the version of the
    /// write.
    pub(super) fn form_in(&self, api_version: &str, written: &str) -> Option<MergeForm<'s>> {
        if api_version == written {
            return Some(MergeForm::of_type(self.own));
        }
        self.others?.type_in(api_version).map(MergeForm::of_type)
    }

    /// An object that is in the version `from` in another.
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

/// The changes of a write in other versions.
pub(super) struct OtherVersions<'a> {
    pub object_type: ObjectType<'a>,
    /// The version of the write, and the fields that its writer can own.
    pub written: &'a str,
    pub reach: OwnableFields<'a>,
    pub old: &'a Value,
    pub new: &'a Value,
    known: BTreeMap<String, VersionChanges>,
}

/// The changes of a write in one other version.
pub(super) enum VersionChanges {
    /// The changed fields, and the removed fields.
    Changes(FieldSet<'static>, FieldSet<'static>),
    /// The changed fields cannot be determined in that version.
    Unknown,
    /// The version no longer exists: its managers are removed.
    Gone,
}

impl<'a> OtherVersions<'a> {
    pub fn new(
        object_type: ObjectType<'a>,
        written: &'a str,
        reach: OwnableFields<'a>,
        (old, new): (&'a Value, &'a Value),
    ) -> Self {
        Self {
            object_type,
            written,
            reach,
            old,
            new,
            known: BTreeMap::new(),
        }
    }

    pub fn of(&mut self, api_version: &str) -> &VersionChanges {
        if !self.known.contains_key(api_version) {
            let view = self.look(api_version);
            self.known.insert(api_version.to_owned(), view);
        }
        self.known
            .get(api_version)
            .unwrap_or(&VersionChanges::Unknown)
    }

    fn look(&self, api_version: &str) -> VersionChanges {
        let Some(form) = self.object_type.form_in(api_version, self.written) else {
            return VersionChanges::Gone;
        };
        let convert = |object: &'a Value| match object.as_object() {
            // There was no object.
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
