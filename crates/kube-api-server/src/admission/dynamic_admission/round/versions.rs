//! The objects of a request in the versions that webhooks and policies request.

use json_tree::Value;
use object_model::Status;
use resource_kinds::DecodeError;

use super::{AdmissionReviewer, name_kind};

impl AdmissionReviewer<'_> {
    /// The object, converted to the version with this index, if this needs no conversion webhook.
    pub(super) fn converted(&self, index: usize, object: &Value) -> Result<Value, DecodeError> {
        if index == 0 || !object.is_object() || !self.is_whole() {
            return Ok(object.clone());
        }
        self.resource(index).kind.decode(object.clone())
    }

    /// As [`converted`](Self::converted); calls the conversion webhook of the kind if there is one.
    ///
    /// *Errors.* The webhook fails; the inner error is that of the form.
    pub(super) async fn in_version(
        &self,
        index: usize,
        object: &Value,
    ) -> Result<Result<Value, DecodeError>, Status> {
        if !self.needs_webhook(index, object) {
            return Ok(self.converted(index, object));
        }
        let target = self.resource(index);
        Ok(Ok(self.objects.object_in(target, object.clone()).await?))
    }

    /// A mutated object, which is in the version with this index, in the version of the request, if the conversion
    /// needs the webhook of the kind.
    pub(super) async fn in_version_of_request(
        &self,
        index: usize,
        mut mutated: Value,
    ) -> Result<Value, Status> {
        if !self.needs_webhook(index, &mutated) {
            return Ok(mutated);
        }
        name_kind(&mut mutated, self.kind(self.resource(index)));
        let target = self.write_request.resource;
        self.objects.object_in(target, mutated).await
    }

    pub(super) fn needs_webhook(&self, index: usize, object: &Value) -> bool {
        let is_foreign = index != 0 && object.is_object() && self.is_whole();
        is_foreign && self.resource(index).webhook().is_some()
    }
}
