//! The built-in admission plug-ins: they change, refuse and give advice about what is written.

use object_model::Status;
use resource_kinds::admission::{AdmissionRequest, Operation};
use serde_json::Value;

use crate::access::asking::Asking;
use crate::objects::storage::reading;
use crate::objects::write_request::Attempt;
use crate::server::ApiServer;

/// Runs the admission plug-ins.
pub(crate) fn admit(
    server: &ApiServer,
    attempt: &Attempt<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Status> {
    let request = asked(attempt, operation, old);
    reading(server, |reads| {
        let user = attempt.user;
        let cluster = Asking {
            reads,
            server,
            user,
        };
        let mut plugins = server.admission.iter();
        plugins.try_for_each(|plugin| plugin.admit(&request, object, &cluster))
    })
}

/// Lets the admission plug-ins say what they have to say of an object that is right in itself.
pub(crate) fn advise(
    server: &ApiServer,
    attempt: &Attempt<'_>,
    operation: Operation,
    object: &Value,
    old: Option<&Value>,
) {
    if attempt.warnings.is_none() {
        return;
    }
    let request = asked(attempt, operation, old);
    let told = reading(server, |reads| {
        let user = attempt.user;
        let cluster = Asking {
            reads,
            server,
            user,
        };
        let plugins = server.admission.iter();
        let texts = plugins.flat_map(|plugin| plugin.warnings(&request, object, &cluster));
        Ok(texts.collect::<Vec<_>>())
    });
    // Advice that cannot be given is no reason to refuse.
    attempt.warn(told.unwrap_or_default());
}

fn asked<'a>(
    attempt: &Attempt<'a>,
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
