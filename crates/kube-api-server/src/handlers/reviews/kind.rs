//! The kind of a review, for admission.

use jiff::Timestamp;
use json_tree::Value;
use object_model::FieldError;
use resource_kinds::{Cell, Column, DecodeError, Kind, KindInfo, Printer, bodies};

/// A kind whose objects exist in requests and responses only.
#[derive(Debug)]
pub(super) struct ReviewKind(pub(super) &'static KindInfo<'static>);

impl Kind for ReviewKind {
    fn info(&self) -> KindInfo<'_> {
        *self.0
    }

    fn decode(&self, object: Value) -> Result<Value, DecodeError> {
        bodies::decode(self.0.kind, object)
    }

    fn default(&self, _object: &mut Value) {}

    /// The handler of the review validates the review.
    fn validate_content(&self, _object: &Value) -> Vec<FieldError> {
        Vec::new()
    }
}

impl Printer for ReviewKind {
    fn columns(&self) -> Vec<Column<'_>> {
        Vec::new()
    }

    fn row(&self, _object: &Value, _now: Timestamp) -> Vec<Cell> {
        Vec::new()
    }
}
