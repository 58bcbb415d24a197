//! The traits of a kind for the generic pipeline: [`Kind`], and one trait for each part that only some kinds
//! have.

mod allocation;
pub(crate) mod cluster;
mod deletion;
pub mod info;
mod pod_ranges;
pub(crate) mod reads;
mod scale;
mod selection;
mod updates;

use json_tree::Value;
use object_model::FieldError;

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

/// A kind of API objects: facts, decoding, defaults, validation. All methods, and those of the
/// other traits of a kind, are pure; none may panic on any input.
///
/// The pipeline calls, on create: [`decode`](Self::decode), [`default`](Self::default),
/// [`prepare_create`](Self::prepare_create), admission, [`complete_create`](Self::complete_create),
/// [`allocate`](Allocating::allocate) and [`validate_create`](Self::validate_create), which no kind
/// replaces. On update it calls the `_update` variants, with the stored object as `old`. The metadata
/// that the server itself keeps (uid, resource version, timestamps, generation, managed fields)
/// belongs to the pipeline.
pub trait Kind: Printer {
    /// The fixed facts.
    fn info(&self) -> KindInfo<'_>;

    /// Checks types and drops fields that the kind does not have. The error is a text in the manner of
    /// `json: cannot unmarshal string into Go struct field StatefulSetSpec.spec.replicas of type
    /// int32`.
    fn decode(&self, object: Value) -> Result<Value, String> {
        self.info().decode(object)
    }

    /// The paths of the fields that [`decode`](Self::decode) would remove because the kind does not have
    /// them, for instance `spec.ports[0].nme`; `None` for a kind that leaves this to its published type.
    fn unknown_fields(&self, _object: &Value) -> Option<Vec<String>> {
        None
    }

    /// Sets the defaults of absent fields. Idempotent.
    fn default(&self, object: &mut Value);

    /// Clears fields that a creation may not set (mostly the status).
    fn prepare_create(&self, object: &mut Value) {
        if self.info().has_subresource("status") {
            parts::remove(object, "status");
        }
    }

    /// Sets the defaults of fields that admission may have added. The object had its defaults before. Plug-ins add
    /// complete parts, and changes of webhooks and policies get their defaults at once, so a kind may look at a few
    /// fields only.
    fn default_admitted(&self, object: &mut Value) {
        self.default(object);
    }

    /// Fills in fields that depend on the object as admission has left it.
    fn complete_create(&self, _object: &mut Value) {}

    /// Restores the fields that an ordinary update may not change (mostly the status).
    fn prepare_update(&self, object: &mut Value, old: &Value) {
        if self.info().has_subresource("status") {
            parts::restore(object, old, "status");
        }
    }

    /// The validation errors of a name of the kind; an empty list for a valid one.
    fn name_errors(&self, name: &str) -> Vec<String> {
        object_model::names::dns_subdomain(name)
    }

    /// The validation errors of an object, but for its metadata: a new one, and a changed one of a kind
    /// without [`validate_content_update`](Self::validate_content_update).
    fn validate_content(&self, object: &Value) -> Vec<FieldError>;

    /// The validation errors of a changed object, but for its metadata.
    fn validate_content_update(&self, object: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate_content(object)
    }

    /// Whether the validation may compute for long, whatever the size of the object.
    fn validates_long(&self) -> bool {
        false
    }

    /// Removes the parts of a stored object that no longer have the type of their field, where an earlier
    /// version stored them. Returns the names of the changed fields of the metadata.
    fn repair(&self, _object: &mut Value) -> Vec<String> {
        Vec::new()
    }

    /// The validation errors of a new object, its metadata (name, labels, annotations, owner references,
    /// finalizers) included.
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let is_namespaced = self.info().scope == Scope::Namespaced;
        let name_errors = |name: &str| self.name_errors(name);
        let mut errors = metadata::validate(is_namespaced, &name_errors, object);
        errors.extend(self.validate_content(object));
        errors
    }

    /// The validation errors of a changed object, labels, annotations, owner references and finalizers
    /// included. The pipeline checks that name, namespace and uid stay.
    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = metadata::validate_update(object);
        errors.extend(self.validate_content_update(object, old));
        errors
    }

    /// The parts outside of the metadata of which the rules of an update and those of admission read
    /// some fields only, if nothing but the metadata changes, with these fields; of all others they may
    /// read all. Such a part may be without its other fields in both objects, and then
    /// [`prepare_update`](Self::prepare_update) is not called: all but the metadata is restored.
    fn reads_for_metadata(&self) -> &'static [FieldRead] {
        &[]
    }

    /// Warnings about an object that is accepted all the same.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// The warning that every client of a deprecated kind gets, with the replacement.
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

/// The rules of a kind that has nothing of its own to say.
struct Ordinary;

impl StatusUpdate for Ordinary {}
impl SubresourceUpdate for Ordinary {}
impl Allocating for Ordinary {}
impl Selectable for Ordinary {}
impl Deletion for Ordinary {}
