//! The built-in admission plug-ins: they mutate, refuse and warn.

use std::sync::Arc;

use json_tree::Value;
use object_model::Status;
use resource_kinds::admission::{Admission as Plugin, AdmissionRequest, Operation};

use crate::access::authorize::Authorizer;
use crate::access::authorizing_reader::AuthorizingReader;
use crate::objects::storage::{Objects, ReadObjects, SyncReads, reading_once};
use crate::objects::write_request::WriteRequest;

/// The plug-ins in order, with their inputs.
pub(crate) struct Plugins {
    list: Vec<Box<dyn Plugin>>,
    objects: Arc<Objects>,
    authorizer: Arc<Authorizer>,
}

impl Plugins {
    pub(crate) fn new(
        list: Vec<Box<dyn Plugin>>,
        objects: Arc<Objects>,
        authorizer: Arc<Authorizer>,
    ) -> Self {
        Self {
            list,
            objects,
            authorizer,
        }
    }

    pub(crate) fn authorizer(&self) -> &Arc<Authorizer> {
        &self.authorizer
    }
}

/// Read access to the cluster for the plug-ins of one request.
fn reader<'s>(
    plugins: &'s Plugins,
    write_request: &'s WriteRequest<'_>,
    reads: &'s SyncReads<'s>,
) -> AuthorizingReader<'s> {
    AuthorizingReader {
        reads,
        authorizer: &plugins.authorizer,
        user: write_request.user,
        source: write_request.source,
    }
}

/// Runs the built-in admission plug-ins, which may change the object or refuse the request.
pub(crate) fn admit(
    plugins: &Plugins,
    write_request: &WriteRequest<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let request = admission_request(write_request, operation, old);
    let anew = ReadObjects::default();
    let cached = write_request.cached.unwrap_or(&anew);
    reading_once(&plugins.objects, cached, |reads| {
        let cluster = reader(plugins, write_request, reads);
        let mut all = plugins.list.iter();
        all.try_for_each(|plugin| plugin.admit(&request, object, &cluster))
    })
}

/// Collects the plug-ins' warnings about a valid object.
pub(crate) fn advise(
    plugins: &Plugins,
    write_request: &WriteRequest<'_>,
    operation: Operation,
    object: &Value,
    old: Option<&Value>,
) {
    if write_request.warnings.is_none() {
        return;
    }
    let request = admission_request(write_request, operation, old);
    let anew = ReadObjects::default();
    let cached = write_request.cached.unwrap_or(&anew);
    let warnings = reading_once(&plugins.objects, cached, |reads| {
        let cluster = reader(plugins, write_request, reads);
        let mut texts = Vec::new();
        for plugin in &plugins.list {
            texts.append(&mut plugin.warnings(&request, object, &cluster));
        }
        Ok(texts)
    });
    // If the warnings cannot be computed, the write is still valid.
    write_request.warn(warnings.unwrap_or_default());
}

fn admission_request<'a>(
    write_request: &WriteRequest<'a>,
    operation: Operation,
    old: Option<&'a Value>,
) -> AdmissionRequest<'a> {
    let info = write_request.resource.info();
    AdmissionRequest {
        operation,
        group: info.group,
        plural: info.plural,
        subresource: write_request.subresource,
        namespace: write_request.namespace,
        name: write_request.name,
        user: &write_request.user.name,
        old,
    }
}
