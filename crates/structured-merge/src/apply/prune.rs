//! Removal of fields that a manager applied before and no longer applies.

use std::borrow::Cow;
use std::collections::BTreeMap;

use json_tree::Value;

use super::form::MergeForm;
use super::managers::{ManagerFields, Managers};
use super::owned::{fields_of, with_named_fields};
use super::path::PathElement;
use super::remove::remove;
use super::server_side::ApplyRequest;
use super::set::{FieldSet, Node};

impl<'a> ApplyRequest<'a> {
    /// Removes the fields that the manager applied before and no longer applies, unless another manager owns them.
    ///
    /// The previous fields are in the version of that time. If the version no longer exists, or the object cannot be
    /// converted to it, nothing is removed.
    pub(super) fn prune(
        &self,
        merged: Value,
        last: &mut ManagerFields<'a>,
        applied: &FieldSet<'_>,
        others: &mut Managers<'a>,
    ) -> Value {
        let (then, now) = (
            last.api_version.clone().into_owned(),
            self.writer.api_version,
        );
        if then == now && last.fields().is_subset(applied) {
            return merged;
        }
        let pruned = self.pruned(&merged, &then, last.fields(), applied, others);
        pruned.unwrap_or(merged)
    }

    /// `None` if no field is removed.
    fn pruned(
        &self,
        merged: &Value,
        then: &str,
        last: &FieldSet<'a>,
        applied: &FieldSet<'_>,
        others: &mut Managers<'a>,
    ) -> Option<Value> {
        let now = self.writer.api_version;
        let form = self.object_type.form_in(then, now)?;
        let last = with_named_fields(last, form).into_owned();
        let before = self.object_type.convert(merged, now, then)?;
        let pruned = remove(form, &before, &last);
        // Restores fields that another manager owns, although their parent was removed …
        let pruned = self.with_what_is_owned(&before, pruned, then, owned(applied, now, others))?;
        // … and fields without an owner, which this manager never owned.
        let lost = present(form, &before).difference(&present(form, &pruned));
        let lost = lost.intersection(&last);
        if lost.is_empty() {
            return None;
        }
        let left = remove(form, &before, &lost);
        self.object_type
            .convert(&left, then, now)
            .map(Cow::into_owned)
    }

    /// The pruned object with the removed fields that another manager owns. Each field is restored in the version in
    /// which it is owned.
    fn with_what_is_owned(
        &self,
        before: &Value,
        mut left: Value,
        then: &str,
        mut owned: BTreeMap<String, FieldSet<'static>>,
    ) -> Option<Value> {
        // The present version is first, because the other versions may need its restored fields.
        let first = owned.remove_entry(then);
        for (version, fields) in first.into_iter().chain(owned) {
            let Some(form) = self.object_type.form_in(&version, self.writer.api_version) else {
                continue;
            };
            let convert = |object| self.object_type.convert(object, then, &version);
            let (Some(all), Some(some)) = (convert(before), convert(&left)) else {
                continue;
            };
            let fields = with_named_fields(&fields, form).into_owned();
            let stays = present(form, &some).union(&fields).into_owned();
            let with = remove(form, &all, &present(form, &all).difference(&stays));
            let back = self.object_type.convert(&with, &version, then)?;
            left = back.into_owned();
        }
        Some(left)
    }
}

/// The fields that an object contains.
fn present(form: MergeForm<'_>, object: &Value) -> FieldSet<'static> {
    with_named_fields(&fields_of(form, object).0, form).into_owned()
}

/// The owned fields by version, including the present apply and the object's identity.
fn owned(
    applied: &FieldSet<'_>,
    now: &str,
    others: &mut Managers<'_>,
) -> BTreeMap<String, FieldSet<'static>> {
    let mut owned = BTreeMap::from([(now.to_owned(), applied.clone().into_owned())]);
    for entry in others.0.values_mut() {
        let version = entry.api_version.clone().into_owned();
        let more = entry.fields().clone().into_owned();
        let all = owned.entry(version).or_default();
        *all = all.union(&more);
    }
    for all in owned.values_mut() {
        *all = all.union(&identity());
    }
    owned
}

/// The metadata of the object, which no manager may remove as a whole.
fn identity() -> FieldSet<'static> {
    FieldSet::from_nodes(vec![Node {
        step: PathElement::Field("metadata".into()),
        member: true,
        below: FieldSet::default(),
    }])
}
