//! The parts of the server that a write needs: the stored objects, access control and admission.

use std::sync::Arc;

use json_tree::Value;
use mvcc_store::KeyValue;
use object_model::Status;
use resource_kinds::FieldRead;

use crate::access::{Access, authorize};
use crate::admission::{Admission, dynamic_admission};
use crate::catalog::registry::Resource;
use crate::http::call::Call;
use crate::http::work;
use crate::objects::storage::{self, DecodedObject, Managers, Objects, Parts};
use crate::objects::write_request::{EditedFields, ObjectPart, WriteRequest};

/// The parts of the server that a write needs.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) objects: &'a Arc<Objects>,
    pub(crate) access: &'a Access,
    pub(crate) admission: &'a Admission,
}

impl Writer<'_> {
    /// The stored object that a request changes.
    ///
    /// *Errors.* 404.
    pub(crate) async fn stored(self, request: &WriteRequest<'_>) -> Result<KeyValue, Status> {
        let reading = self
            .objects
            .must_read(request.resource, request.namespace, request.name);
        let stored = reading.await?;
        // The next steps decode the object and usually send it, which takes time in proportion to its size.
        work::announce(stored.value.len())?;
        work::expect(stored.value.len()).await;
        Ok(stored)
    }

    /// The written object in the version of the request, if the caller reads more than its metadata.
    ///
    /// *Errors.* 500 if the webhook of the kind fails.
    pub(crate) async fn answer(
        self,
        request: &WriteRequest<'_>,
        stored: KeyValue,
    ) -> Result<KeyValue, Status> {
        match request.metadata_only {
            true => Ok(stored),
            false => self.objects.one_in_version(request.resource, stored).await,
        }
    }

    /// The resource in the version in which an object is stored, for a write of metadata by a component of this server:
    /// garbage collection must not depend on the conversion webhooks of users.
    pub(crate) fn edits_as_stored(
        self,
        request: &WriteRequest<'_>,
        part: ObjectPart,
        stored: &KeyValue,
    ) -> Option<Arc<Resource>> {
        let is_of_metadata = request.metadata_only && request.extent == EditedFields::Metadata;
        let is_own = request.source.is_none() && part == ObjectPart::Whole;
        let is_converted = self.objects.has_conversion(request.resource);
        match is_of_metadata && is_own && is_converted {
            true => self.objects.stored_as(request.resource, stored),
            false => None,
        }
    }

    /// The tree of a stored object and its managed fields, for a write of the object. `reads` are the parts of which
    /// the write reads only some fields; such parts may stay text outside of the tree.
    ///
    /// *Errors.* 500 if the object cannot be decoded.
    pub(crate) fn decoded(
        self,
        request: &WriteRequest<'_>,
        stored: &KeyValue,
        reads: &'static [FieldRead],
    ) -> Result<DecodedObject, Status> {
        if self.has_separate_managers(request) {
            return storage::decode_apart(request.resource, stored, reads);
        }
        Ok(DecodedObject {
            tree: storage::decode(request.resource, stored)?,
            managers: Managers::Within,
            parts: Parts::default(),
        })
    }

    /// Whether only field tracking reads the managed fields in this write, so that they may stay text outside of the
    /// tree.
    pub(crate) fn has_separate_managers(self, request: &WriteRequest<'_>) -> bool {
        // The webhook of a kind gets the whole object.
        let is_converted = self.objects.has_conversion(request.resource);
        let read = is_converted
            || request.applied
            || request.extent == EditedFields::Any
            || request.dry_run;
        // An error of the registrations is reported later, when admission calls them.
        !read && !dynamic_admission::concerns(self.admission, request).unwrap_or(true)
    }

    /// Checks that the new state of an object grants no rights that the caller lacks.
    ///
    /// *Errors.* As [`authorize::check_escalation`].
    pub(crate) fn check_escalation(
        self,
        call: &Call,
        resource: &Resource,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Status> {
        authorize::check_escalation(
            &self.access.authorizer,
            &call.user,
            &call.info.namespace,
            &call.info.name,
            resource,
            object,
            old,
        )
    }
}
