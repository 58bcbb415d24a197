//! certificates.k8s.io/v1 CertificateSigningRequest.

use std::collections::BTreeSet;

use jiff::Timestamp;
use json_tree::{Value, json};
use object_model::{FieldError, duration, names};

use super::request::bytes;
use super::{GROUP, Request, condition, signer};
use crate::json::parts;
use crate::kind::info::{Names, STATUS, cluster};
use crate::kind::{
    Kind, KindInfo, Selectable, StatusUpdate, Subresource, SubresourceUpdate, Words,
};
use crate::printing::{Cell, Column, Printer, table};
use crate::validation::field::{Field, Rules};

#[derive(Debug)]
pub struct CertificateSigningRequest;

const APPROVAL: Subresource = Subresource {
    name: "approval",
    ..STATUS
};

const INFO: KindInfo<'static> = KindInfo {
    subresources: &[APPROVAL, STATUS],
    ..cluster(Names {
        group: GROUP,
        kind: "CertificateSigningRequest",
        list_kind: "CertificateSigningRequestList",
        plural: "certificatesigningrequests",
        singular: "certificatesigningrequest",
        short: &["csr"],
    })
};

const COLUMNS: &[Column<'static>] = &[
    table::NAME,
    table::AGE,
    table::column("SignerName", "Who is to sign."),
    table::column("Requestor", "Who asks."),
    table::column(
        "RequestedDuration",
        "How long the certificate is to be valid.",
    ),
    table::column(
        "Condition",
        "What has been decided, and whether it is signed.",
    ),
];

/// Minimum requested lifetime, in seconds.
const LIFE_MIN: i64 = 600;

/// The usages of a certificate.
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// Conditions that cannot be removed, and whose status is always `True`.
const LASTING: &[&str] = &[condition::APPROVED, condition::DENIED, condition::FAILED];

impl Kind for CertificateSigningRequest {
    fn info(&self) -> KindInfo<'_> {
        INFO
    }

    fn default(&self, _object: &mut Value) {}

    /// Admission sets the requester, so the fields in the request are removed.
    fn prepare_create(&self, object: &mut Value) {
        parts::remove(object, "status");
        if let Some(spec) = parts::entry(object, "spec") {
            for field in ["username", "uid", "groups", "extra"] {
                parts::remove(spec, field);
            }
        }
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        parts::restore(object, old, "status");
        parts::restore(object, old, "spec");
    }

    fn validate_content(&self, object: &Value) -> Vec<FieldError> {
        validate_spec(&Field::of(object, "spec"))
    }

    fn validate_content_update(&self, _object: &Value, _old: &Value) -> Vec<FieldError> {
        Vec::new()
    }

    fn status_update(&self) -> &dyn StatusUpdate {
        self
    }

    fn subresource_update(&self) -> &dyn SubresourceUpdate {
        self
    }

    fn selectable(&self) -> &dyn Selectable {
        self
    }
}

impl Printer for CertificateSigningRequest {
    fn columns(&self) -> Vec<Column<'_>> {
        COLUMNS.to_vec()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let life = spec["expirationSeconds"].as_i64();
        vec![
            table::name(object),
            table::age(object, now),
            table::text_or(&spec["signerName"], "<none>"),
            table::text_or(&spec["username"], ""),
            json!(life.map_or("<none>".to_owned(), duration::human)),
            json!(state(object)),
        ]
    }
}

impl StatusUpdate for CertificateSigningRequest {
    fn prepare_status_update(&self, object: &mut Value, old: &Value) {
        parts::restore_all_but(object, old, &["status", "metadata"]);
        date_conditions(object);
    }

    fn validate_status_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let status = Field::of(object, "status");
        let before = Field::of(old, "status");
        let mut errors = validate_conditions(&status, &before);
        let conditions = status.get("conditions");
        for kind in [condition::APPROVED, condition::DENIED] {
            if has(&status, kind) && !has(&before, kind) {
                let text = format!("updates may not add a condition of type {kind:?}");
                errors.push(conditions.forbidden(text));
            }
        }
        let (new, old) = (status.get("certificate"), before.get("certificate"));
        if old.is_set() && new.value != old.value {
            errors.push(new.forbidden("updates may not modify existing certificate content"));
        }
        if new.is_set() && !is_certificate(new.value) {
            errors.push(new.invalid("must be one or more PEM blocks of type CERTIFICATE"));
        }
        errors
    }
}

impl SubresourceUpdate for CertificateSigningRequest {
    fn prepare_subresource_update(&self, _name: &str, object: &mut Value, old: &Value) {
        parts::restore_all_but(object, old, &["status", "metadata"]);
        let before = &old["status"];
        let concerned = object["status"].is_object() || !before["certificate"].is_null();
        if concerned && let Some(status) = parts::entry(object, "status") {
            parts::restore(status, before, "certificate");
        }
        date_conditions(object);
    }

    fn validate_subresource_update(
        &self,
        _name: &str,
        object: &Value,
        old: &Value,
    ) -> Vec<FieldError> {
        let (status, before) = (Field::of(object, "status"), Field::of(old, "status"));
        validate_conditions(&status, &before)
    }
}

impl Selectable for CertificateSigningRequest {
    fn selectable_field(&self, object: &Value, field: &str) -> Option<String> {
        let field = field.strip_prefix("spec.")?;
        let is_supported = field == "signerName";
        is_supported.then(|| {
            object["spec"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
    }

    fn selectable_fields(&self) -> Words<'_> {
        Words::Fixed(&["spec.signerName"])
    }
}

/// For example `Approved,Issued`.
fn state(object: &Value) -> String {
    let status = Field::of(object, "status");
    let words = [
        (has(&status, condition::APPROVED), "Approved"),
        (has(&status, condition::DENIED), "Denied"),
        (has(&status, condition::FAILED), "Failed"),
        (!status.get("certificate").is_empty(), "Issued"),
    ];
    let states: Vec<&str> = words
        .into_iter()
        .filter_map(|(is, word)| is.then_some(word))
        .collect();
    match states.contains(&"Approved") || states.contains(&"Denied") {
        true => states.join(","),
        false => [&["Pending"][..], &states].concat().join(","),
    }
}

fn has(status: &Field<'_, '_>, kind: &str) -> bool {
    let conditions = status.get("conditions");
    conditions.items().any(|one| one.get("type").text() == kind)
}

/// A condition without a transition time gets its update time as transition time.
fn date_conditions(object: &mut Value) {
    let Some(status) = object.get_mut("status") else {
        return;
    };
    for condition in parts::each(status, "conditions") {
        let updated = condition["lastUpdateTime"].clone();
        if !updated.is_null() {
            parts::fill(condition, "lastTransitionTime", updated);
        }
    }
}

fn validate_spec(spec: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let request = spec.get("request");
    if let Err(error) = Request::from_field(request.value) {
        errors.push(request.invalid(error.to_string()));
    }
    let usages = spec.get("usages");
    if usages.is_empty() {
        errors.push(usages.required("usages is required"));
    }
    let mut unique = BTreeSet::new();
    for usage in usages.items() {
        if !USAGES.contains(&usage.text()) {
            errors.push(usage.not_supported(USAGES));
        } else if !unique.insert(usage.text()) {
            errors.push(usage.duplicate());
        }
    }
    let name = spec.get("signerName");
    if name.text() == signer::LEGACY {
        let text = "the legacy signerName is not allowed via this API version";
        errors.push(name.invalid(text));
    } else {
        check_signer(&mut errors, &name);
    }
    let life = spec.get("expirationSeconds");
    if life.int().is_some_and(|seconds| seconds < LIFE_MIN) {
        let text = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(life.invalid(text));
    }
    errors
}

fn check_signer(errors: &mut Vec<FieldError>, name: &Field<'_, '_>) {
    if name.is_empty() {
        errors.push(name.required(""));
        return;
    }
    let pieces: Vec<&str> = name.text().split('/').collect();
    let [domain, path] = pieces[..] else {
        let text = "must be a fully qualified domain and path of the form \
                    'example.com/signer-name'";
        errors.push(name.invalid(text));
        return;
    };
    if domain.split('.').count() < 2 {
        let text = "should be a domain with at least two segments separated by dots";
        errors.push(name.invalid(text));
    }
    for label in domain.split('.').chain(path.split('.')) {
        for clause in names::dns_label(label) {
            errors.push(name.invalid(format!("validating label {label:?}: {clause}")));
        }
    }
}

fn validate_conditions(status: &Field<'_, '_>, before: &Field<'_, '_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let conditions = status.get("conditions");
    let mut types = BTreeSet::new();
    for one in conditions.items() {
        let (kind, state) = (one.get("type"), one.get("status"));
        if kind.is_empty() {
            errors.push(kind.required(""));
        } else if !types.insert(kind.text()) {
            errors.push(kind.duplicate());
        }
        let allowed: &[&str] = if LASTING.contains(&kind.text()) {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        errors.check_one_of(&state, allowed);
        if kind.text() == condition::DENIED && types.contains(condition::APPROVED)
            || kind.text() == condition::APPROVED && types.contains(condition::DENIED)
        {
            let text = "Approved and Denied conditions are mutually exclusive";
            errors.push(kind.invalid(text));
        }
    }
    for kind in LASTING {
        if has(before, kind) && !has(status, kind) {
            let text = format!("updates may not remove a condition of type {kind:?}");
            errors.push(conditions.forbidden(text));
        }
    }
    errors
}

fn is_certificate(value: &Value) -> bool {
    let bytes = bytes(value);
    let mut blocks = x509_parser::pem::Pem::iter_from_buffer(&bytes).peekable();
    blocks.peek().is_some()
        && blocks.all(|block| block.is_ok_and(|block| block.label == "CERTIFICATE"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::super::tests::{JANE, NODE};
    use super::*;

    fn encoded(pem: &str) -> Value {
        json_tree::to_value(ByteString(pem.as_bytes().to_vec())).unwrap()
    }

    fn jane() -> Value {
        json!({"metadata": {"name": "jane"}, "spec": {"request": encoded(JANE),
            "signerName": signer::API_CLIENT, "usages": ["client auth"],
            "expirationSeconds": 86400, "username": "admin"}})
    }

    fn wrong(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut object = jane();
        change(&mut object["spec"]);
        let errors = CertificateSigningRequest.validate_create(&object);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_request_is_checked() {
        assert_eq!(wrong(|_| {}), [""; 0]);
        let other = wrong(|spec| spec["request"] = encoded("x"));
        assert!(other[0].ends_with("PEM block type must be CERTIFICATE REQUEST"));
        // findings S3
        let two = format!("{JANE}{NODE}");
        let two = wrong(|spec| spec["request"] = encoded(&two));
        assert!(two[0].ends_with("PEM block type must be CERTIFICATE REQUEST"));
        let usages = wrong(|spec| spec["usages"] = json!(["client auth", "client auth", "x"]));
        assert_eq!(usages.len(), 2, "{usages:?}");
        assert_eq!(
            wrong(|spec| spec["usages"] = json!([])),
            ["spec.usages: Required value: usages is required"]
        );
        assert_eq!(
            wrong(|spec| spec["expirationSeconds"] = json!(599)).len(),
            1
        );
    }

    #[test]
    fn a_signer_is_a_domain_and_a_path() {
        for name in [
            "",
            "a",
            "example.com",
            "com/a",
            "example.com/a/b",
            signer::LEGACY,
        ] {
            assert_eq!(
                wrong(|spec| spec["signerName"] = json!(name)).len(),
                1,
                "{name}"
            );
        }
        assert!(wrong(|spec| spec["signerName"] = json!("example.com/my.signer")).is_empty());
    }

    #[test]
    fn nobody_says_who_they_are() {
        let mut object = jane();
        CertificateSigningRequest.prepare_create(&mut object);
        assert!(object["spec"]["username"].is_null());
    }

    #[test]
    fn a_decision_is_for_good_and_only_made_through_approval() {
        let kind = CertificateSigningRequest;
        let old = jane();
        let mut approved = old.clone();
        approved["status"] = json!({"certificate": "aGk=", "conditions": [
            {"type": "Approved", "status": "True", "lastUpdateTime": "2026-01-01T00:00:00Z"}]});
        let mut through = approved.clone();
        kind.prepare_subresource_update("approval", &mut through, &old);
        assert!(through["status"]["certificate"].is_null());
        let time = &through["status"]["conditions"][0]["lastTransitionTime"];
        assert_eq!(time, "2026-01-01T00:00:00Z");
        assert_eq!(
            kind.validate_subresource_update("approval", &through, &old),
            []
        );
        assert_eq!(kind.validate_status_update(&through, &old).len(), 1);
        assert_eq!(
            kind.validate_subresource_update("approval", &old, &through)
                .len(),
            1
        );
        let mut both = through.clone();
        let denied = json!({"type": "Denied", "status": "True"});
        both["status"]["conditions"]
            .as_array_mut()
            .unwrap()
            .push(denied);
        assert_eq!(
            kind.validate_subresource_update("approval", &both, &through)
                .len(),
            1
        );
        let mut unsure = through.clone();
        unsure["status"]["conditions"][0]["status"] = json!("False");
        assert_eq!(
            kind.validate_subresource_update("approval", &unsure, &through)
                .len(),
            1
        );
    }

    #[test]
    fn a_certificate_stays() {
        let kind = CertificateSigningRequest;
        let mut old = jane();
        let pem = NODE.replace("CERTIFICATE REQUEST", "CERTIFICATE");
        let mut new = old.clone();
        new["status"] = json!({"certificate": encoded(&pem)});
        assert_eq!(kind.validate_status_update(&new, &old), []);
        old = new.clone();
        new["status"]["certificate"] = encoded(&format!("{pem}\n"));
        assert_eq!(kind.validate_status_update(&new, &old).len(), 1);
        new["status"]["certificate"] = encoded(NODE);
        assert_eq!(kind.validate_status_update(&new, &jane()).len(), 1);
    }

    #[test]
    fn the_row_says_what_became_of_it() {
        let row = |object: &Value| CertificateSigningRequest.row(object, Timestamp::UNIX_EPOCH);
        let mut object = jane();
        assert_eq!(
            row(&object)[2..],
            [
                json!(signer::API_CLIENT),
                json!("admin"),
                json!("24h"),
                json!("Pending")
            ]
        );
        object["status"] = json!({"certificate": "aGk=", "conditions": [
            {"type": "Approved", "status": "True"}]});
        assert_eq!(row(&object)[5], "Approved,Issued");
    }
}
