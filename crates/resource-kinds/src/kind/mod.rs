//! The traits of a kind for the generic pipeline: [`Kind`], and one trait for each feature that only some kinds have.

mod allocation;
pub(crate) mod cluster;
mod deletion;
pub mod info;
mod pod_ranges;
pub(crate) mod reads;
mod scale;
mod selection;
mod updates;

use std::sync::Arc;

use json_tree::Value;
use object_model::FieldError;

use crate::json::decode::DecodeError;
use crate::json::parts;
use crate::printing::Printer;
use crate::validation::metadata;

pub use allocation::{Allocating, Allocation, AllocationLookup, AllocationRefusal};
pub use deletion::Deletion;
pub use info::{Body, KindInfo, Scope, Subresource, Verb, Words, WriteRules};
pub use pod_ranges::{PodRanges, PodRangesError};
pub use reads::FieldRead;
pub use scale::Scalable;
pub use selection::Selectable;
pub use updates::{StatusUpdate, SubresourceUpdate};

/// A kind of API objects: properties, decoding, defaults, validation. All methods, and those of the other traits of a
/// kind, are pure, and must not panic on any input.
///
/// The pipeline calls, on create: [`decode`](Self::decode), [`default`](Self::default),
/// [`prepare_create`](Self::prepare_create), admission, [`complete_create`](Self::complete_create),
/// [`allocate`](Allocating::allocate) and [`validate_create`](Self::validate_create), which no kind overrides. On
/// update it calls the `_update` variants, with the stored object as `old`. The pipeline itself manages the metadata
/// that the server sets (uid, resource version, timestamps, generation, managed fields).
pub trait Kind: Printer {
    /// The fixed properties.
    fn info(&self) -> KindInfo<'_>;

    /// Checks types and removes unknown fields. The error is a text such as `json: cannot unmarshal string into Go
    /// struct field StatefulSetSpec.spec.replicas of type int32`.
    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        self.info().decode(object)
    }

    /// The paths of the unknown fields that [`decode`](Self::decode) would remove, for instance `spec.ports[0].nme`;
    /// `None` if the published type of the kind decides.
    fn unknown_fields(&self, _object: &Value) -> Option<Vec<String>> {
        None
    }

    /// Sets the defaults of absent fields. Idempotent.
    fn default(&self, object: &mut Value);

    /// Removes fields that a creation may not set (usually the status).
    fn prepare_create(&self, object: &mut Value) {
        if self.info().has_subresource("status") {
            parts::remove(object, "status");
        }
    }

    /// Sets the defaults of fields that admission may have added. The object had its defaults before. Plug-ins add
    /// complete parts, and changes of webhooks and policies get their defaults at once, so a kind may check a few
    /// fields only.
    fn default_admitted(&self, object: &mut Value) {
        self.default(object);
    }

    /// Sets fields that depend on the object after admission.
    fn complete_create(&self, _object: &mut Value) {}

    /// Restores the fields that an update of the main resource may not change (usually the status).
    fn prepare_update(&self, object: &mut Value, old: &Value) {
        if self.info().has_subresource("status") {
            parts::restore(object, old, "status");
        }
    }

    /// The validation errors of a name of the kind; empty for a valid name.
    fn name_errors(&self, name: &str) -> Vec<String> {
        object_model::names::dns_subdomain(name)
    }

    /// The validation errors of a new object, without its metadata. Also used for a changed object if the kind does
    /// not override [`validate_content_update`](Self::validate_content_update).
    fn validate_content(&self, object: &Value) -> Vec<FieldError>;

    /// The validation errors of a changed object, without its metadata.
    fn validate_content_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_content(object)
    }

    /// Whether the validation may take long, whatever the size of the object.
    fn validates_long(&self) -> bool {
        false
    }

    /// Removes the parts of a stored object that do not have the type of their field, because an earlier version
    /// stored them. Returns the names of the changed metadata fields.
    fn repair(&self, _object: &mut Value) -> Vec<String> {
        Vec::new()
    }

    /// The validation errors of a new object, including its metadata (name, labels, annotations, owner references,
    /// finalizers).
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let is_namespaced = self.info().scope == Scope::Namespaced;
        let name_errors = |name: &str| self.name_errors(name);
        let mut errors = metadata::validate(is_namespaced, &name_errors, object);
        errors.extend(self.validate_content(object));
        errors
    }

    /// The validation errors of a changed object, including labels, annotations, owner references and finalizers. The
    /// pipeline checks that name, namespace and UID do not change.
    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = metadata::validate_update(object);
        errors.extend(self.validate_content_update(object, old));
        errors
    }

    /// As [`validate_update`](Self::validate_update), for a kind whose rules depend on other objects of the namespace.
    fn validate_update_among(
        &self,
        object: &Value,
        old: &Value,
        _siblings: &Siblings<'_>,
    ) -> Vec<FieldError> {
        self.validate_update(object, old)
    }

    /// For an update that changes only metadata: the parts outside of the metadata of which the rules of the update
    /// and of admission read only some fields, with these fields. All fields of other parts may be read. Both objects
    /// may lack the other fields of a listed part; in this case the pipeline does not call
    /// [`prepare_update`](Self::prepare_update), but restores everything except the metadata.
    fn reads_for_metadata(&self) -> &'static [FieldRead] {
        &[]
    }

    /// Warnings about a valid object.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// The warning for every client of a deprecated kind, with the replacement.
    fn deprecation(&self) -> Option<&str> {
        None
    }

    /// The sub-resource `scale`; `None` for kinds without it.
    fn scalable(&self) -> Option<&dyn Scalable> {
        None
    }

    /// The rules of updates through `status`.
    fn status_update(&self) -> &dyn StatusUpdate {
        &Ordinary
    }

    /// The rules of updates through other sub-resources.
    fn subresource_update(&self) -> &dyn SubresourceUpdate {
        &Ordinary
    }

    /// The allocations that objects hold.
    fn allocating(&self) -> &dyn Allocating {
        &Ordinary
    }

    /// The field selectors.
    fn selectable(&self) -> &dyn Selectable {
        &Ordinary
    }

    /// The rules of deletion.
    fn deletion(&self) -> &dyn Deletion {
        &Ordinary
    }
}

/// Reads the objects of the changed object's namespace, by group and plural.
pub type Siblings<'r> = dyn Fn(&str, &str) -> Vec<Arc<Value>> + 'r;

/// The default rules, for kinds without special rules.
struct Ordinary;

impl StatusUpdate for Ordinary {}
impl SubresourceUpdate for Ordinary {}
impl Allocating for Ordinary {}
impl Selectable for Ordinary {}
impl Deletion for Ordinary {}
