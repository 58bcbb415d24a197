//! Admission of CertificateSigningRequests: admission records the requester, approval and signing need rights on the
//! signer, and certificates of the group `system:masters` are refused.

use json_tree::Value;
use object_model::Status;

use super::plugin::{Admission, AdmissionRequest, Operation, forbidden};
use crate::admission::{ObjectReader, ResourceAttributes};
use crate::groups::certificates::{GROUP, Request, signer};
use crate::json::parts;

const PLURAL: &str = "certificatesigningrequests";
/// Members of this group may do everything.
const MASTERS: &str = "system:masters";

fn concerns(
    request: &AdmissionRequest<'_>,
    operation: Operation,
    subresource: Option<&str>,
) -> bool {
    request.group == GROUP
        && request.plural == PLURAL
        && request.operation == operation
        && subresource.is_none_or(|name| name == request.subresource)
}

/// Records the requester in a new request. (In Kubernetes the registry of the kind does this.)
pub(super) struct CertificateRequestor;

impl Admission for CertificateRequestor {
    fn name(&self) -> &'static str {
        "CertificateRequestor"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if !concerns(request, Operation::Create, None) {
            return Ok(());
        }
        let asker = cluster.requester();
        if let Some(spec) = parts::entry(object, "spec") {
            parts::set(spec, "username", request.user);
            for field in ["uid", "groups", "extra"] {
                parts::restore(spec, &asker, field);
            }
        }
        Ok(())
    }
}

/// Approval and denial need the verb `approve` on the signer.
pub(super) struct CertificateApproval;

impl Admission for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        if concerns(request, Operation::Update, Some("approval")) {
            check(request, object, cluster, "approve")?;
        }
        Ok(())
    }
}

/// The issue of a certificate, and the report of a failure, need the verb `sign` on the signer.
pub(super) struct CertificateSigning;

impl Admission for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        let before = request.old.map(|old| &old["status"]);
        if concerns(request, Operation::Update, Some("status"))
            && before.is_none_or(|before| *before != object["status"])
        {
            check(request, object, cluster, "sign")?;
        }
        Ok(())
    }
}

/// The signer comes from the stored request; the signer in the sent object is ignored.
fn check(
    request: &AdmissionRequest<'_>,
    object: &Value,
    cluster: &dyn ObjectReader,
    verb: &str,
) -> Result<(), Status> {
    let stored = request.old.unwrap_or(object);
    let name = stored["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = name.split_once('/').map_or(name, |(domain, _)| domain);
    let whole_domain = format!("{domain}/*");
    let right = |name| ResourceAttributes {
        verb,
        group: GROUP,
        resource: "signers",
        name,
        ..ResourceAttributes::default()
    };
    let mut names = [name, &whole_domain].into_iter();
    if names.any(|name| cluster.allows(&right(name))) {
        return Ok(());
    }
    let why = format!("user not permitted to {verb} requests with signerName {name:?}");
    Err(forbidden(request, object, &why))
}

/// A client certificate for the group `system:masters` cannot be requested.
pub(super) struct CertificateSubjectRestriction;

impl Admission for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn admit(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut Value,
        _cluster: &dyn ObjectReader,
    ) -> Result<(), Status> {
        let spec = &object["spec"];
        if !concerns(request, Operation::Create, None) || spec["signerName"] != signer::API_CLIENT {
            return Ok(());
        }
        // Validation reports an invalid request later.
        let parsed = Request::from_field(&spec["request"]).unwrap_or_default();
        let organizations = parsed.organizations;
        if organizations.iter().any(|group| group == MASTERS) {
            let why = format!(
                "use of {} signer with {MASTERS} group is not allowed",
                signer::API_CLIENT
            );
            return Err(forbidden(request, object, &why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::super::testing::{Granted, request};
    use super::*;
    use crate::groups::certificates::tests::{JANE, MASTER};

    /// A cluster in which the user has only the right `verb` on the signer `name`.
    fn signer_right(verb: &'static str, name: &'static str) -> Granted {
        Granted(ResourceAttributes {
            verb,
            group: GROUP,
            resource: "signers",
            name,
            ..ResourceAttributes::default()
        })
    }

    fn request_object(pem: &str) -> Value {
        let pem = k8s_openapi::ByteString(pem.as_bytes().to_vec());
        json!({"metadata": {"name": "a"}, "spec": {"request": pem,
            "signerName": signer::API_CLIENT}})
    }

    fn admission_request(operation: Operation) -> AdmissionRequest<'static> {
        AdmissionRequest {
            group: GROUP,
            ..request(operation, PLURAL)
        }
    }

    #[test]
    fn who_asks_is_noted() {
        let mut object = request_object(JANE);
        object["spec"]["groups"] = json!(["system:masters"]);
        let create = admission_request(Operation::Create);
        let cluster = Granted::nothing();
        CertificateRequestor
            .admit(&create, &mut object, &cluster)
            .unwrap();
        assert_eq!(object["spec"]["username"], "me");
        assert_eq!(object["spec"]["groups"], json!(["us"]));
        assert!(object["spec"].get("extra").is_none());
    }

    #[test]
    fn approving_and_signing_need_rights_on_the_signer() {
        let old = request_object(JANE);
        let mut new = request_object(JANE);
        new["spec"]["signerName"] = json!("example.com/mine");
        new["status"] = json!({"conditions": []});
        let update = AdmissionRequest {
            subresource: "approval",
            old: Some(&old),
            ..admission_request(Operation::Update)
        };
        let mut try_it = |right: Granted| CertificateApproval.admit(&update, &mut new, &right);
        assert!(try_it(signer_right("approve", signer::API_CLIENT)).is_ok());
        assert!(try_it(signer_right("approve", "kubernetes.io/*")).is_ok());
        let refused = try_it(signer_right("approve", "example.com/mine")).unwrap_err();
        assert_eq!(refused.code, 403);
        assert!(refused.message.contains(
            "user not permitted to approve requests with signerName \
             \"kubernetes.io/kube-apiserver-client\""
        ));
        let sign = AdmissionRequest {
            subresource: "status",
            ..update
        };
        let mut try_it = |right: Granted| CertificateSigning.admit(&sign, &mut new, &right);
        assert!(try_it(signer_right("sign", signer::API_CLIENT)).is_ok());
        assert!(try_it(signer_right("approve", signer::API_CLIENT)).is_err());
    }

    #[test]
    fn nobody_asks_for_everything() {
        let admit = |mut object: Value| {
            CertificateSubjectRestriction.admit(
                &admission_request(Operation::Create),
                &mut object,
                &Granted::nothing(),
            )
        };
        assert!(admit(request_object(JANE)).is_ok());
        assert_eq!(admit(request_object(MASTER)).unwrap_err().code, 403);
    }
}
