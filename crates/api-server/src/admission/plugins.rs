//! The built-in admission plug-ins: they mutate, refuse and warn.

use std::sync::Arc;

use object_model::Status;
use resource_kinds::admission::{Admission as Plugin, AdmissionRequest, Operation};
use serde_json::Value;

use crate::access::asking::Asking;
use crate::access::authorize::Authorizer;
use crate::objects::storage::{Objects, reading};
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
}

/// Runs the admission plug-ins.
pub(crate) fn admit(
    plugins: &Plugins,
    attempt: &WriteRequest<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let request = asked(attempt, operation, old);
    reading(&plugins.objects, |reads| {
        let user = attempt.user;
        let cluster = Asking {
            reads,
            authorizer: &plugins.authorizer,
            user,
        };
        let mut all = plugins.list.iter();
        all.try_for_each(|plugin| plugin.admit(&request, object, &cluster))
    })
}

/// Collects the plug-ins' warnings about a valid object.
pub(crate) fn advise(
    plugins: &Plugins,
    attempt: &WriteRequest<'_>,
    operation: Operation,
    object: &Value,
    old: Option<&Value>,
) {
    if attempt.warnings.is_none() {
        return;
    }
    let request = asked(attempt, operation, old);
    let told = reading(&plugins.objects, |reads| {
        let user = attempt.user;
        let cluster = Asking {
            reads,
            authorizer: &plugins.authorizer,
            user,
        };
        let all = plugins.list.iter();
        let texts = all.flat_map(|plugin| plugin.warnings(&request, object, &cluster));
        Ok(texts.collect::<Vec<_>>())
    });
    // Advice that cannot be given is no reason to refuse.
    attempt.warn(told.unwrap_or_default());
}

fn asked<'a>(
    attempt: &WriteRequest<'a>,
    operation: Operation,
    old: Option<&'a Value>,
) -> AdmissionRequest<'a> {
    let info = attempt.resource.info();
    AdmissionRequest {
        operation,
        group: info.group,
        plural: info.plural,
        subresource: attempt.subresource,
        namespace: attempt.namespace,
        name: attempt.name,
        user: &attempt.user.name,
        old,
    }
}
