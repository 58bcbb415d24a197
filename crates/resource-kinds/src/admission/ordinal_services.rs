//! The annotation for a Service per pod of a set causes a controller to create Services. A user who sets the
//! annotation therefore needs the right to create Services.

use json_tree::Value;
use object_model::Status;

use super::plugin::{Admission, AdmissionRequest, Operation, forbidden};
use crate::admission::{ObjectReader, ResourceAttributes};
use crate::well_known::annotations::ORDINAL_NODE_PORT;

pub(super) struct OrdinalServices;

impl Admission for OrdinalServices {
    fn name(&self) -> &'static str {
        "OrdinalServices"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        let of_sets = (request.group, request.plural) == ("apps", "statefulsets");
        if !of_sets || request.operation == Operation::Delete {
            return Ok(());
        }
        let node_port = |set: &Value| set["metadata"]["annotations"][ORDINAL_NODE_PORT].clone();
        let (new, old) = (
            node_port(object),
            request.old.map(node_port).unwrap_or_default(),
        );
        let right = ResourceAttributes {
            verb: "create",
            resource: "services",
            namespace: request.namespace,
            ..ResourceAttributes::default()
        };
        if new.is_null() || new == old || cluster.allows(&right) {
            return Ok(());
        }
        cov_mark::hit!(findings_s30);
        let why = format!(
            "the annotation {ORDINAL_NODE_PORT} makes Services, which user {:?} cannot create in \
             the namespace {:?}",
            request.user, request.namespace
        );
        Err(forbidden(request, object, &why))
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::super::testing::{Granted, request};
    use super::*;

    /// A cluster in which the user may create Services in one namespace only.
    fn creator(namespace: &'static str) -> Granted {
        Granted(ResourceAttributes {
            verb: "create",
            resource: "services",
            namespace,
            ..ResourceAttributes::default()
        })
    }

    #[test]
    fn who_may_not_make_services_has_none_made() {
        cov_mark::check!(findings_s30);
        // findings S30
        let set = |port: Value| json!({"metadata": {"annotations": {ORDINAL_NODE_PORT: port}}});
        let create = AdmissionRequest {
            group: "apps",
            namespace: "a",
            ..request(Operation::Create, "statefulsets")
        };
        let old = set(json!("30100"));
        let update = AdmissionRequest {
            operation: Operation::Update,
            old: Some(&old),
            ..create
        };
        let may = |request: &AdmissionRequest<'_>, set: Value, who: &dyn ObjectReader| {
            let outcome = OrdinalServices.admit(request, &mut set.clone(), who);
            outcome.map_err(|status| status.code)
        };
        let nobody = Granted::nothing();
        let port = || set(json!("30200"));
        assert_eq!(may(&create, port(), &nobody), Err(403));
        assert_eq!(may(&create, port(), &creator("b")), Err(403));
        assert_eq!(may(&create, port(), &creator("a")), Ok(()));
        assert_eq!(may(&create, json!({"metadata": {}}), &nobody), Ok(()));
        assert_eq!(may(&update, port(), &nobody), Err(403));
        assert_eq!(may(&update, old.clone(), &nobody), Ok(()));
        assert_eq!(may(&update, json!({"metadata": {}}), &nobody), Ok(()));
    }
}
