//! Requests to webhooks, and their responses (`admission.k8s.io` AdmissionReview).

use json_tree::{Value, json};
use object_model::{Status, StatusReason};

use crate::error::ReviewError;
use crate::request::Request;
use crate::webhook::Webhook;

/// The response of a webhook.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookResponse {
    pub verdict: WebhookVerdict,
    /// Warnings for the client.
    pub warnings: Vec<String>,
    /// Annotations of the audit event: the keys, with the name of the webhook, and the values.
    pub annotations: Vec<(String, String)>,
}

/// The decision of a webhook.
#[derive(Clone, Debug, PartialEq)]
pub enum WebhookVerdict {
    Allowed {
        /// A JSON patch in base64; `None` if the object is unchanged.
        patch: Option<String>,
    },
    Denied(Status),
}

/// The AdmissionReview that is sent to a webhook.
pub fn review(webhook: &Webhook, request: &Request<'_>) -> Value {
    let mut facts = request.facts();
    facts["object"] = request.object.clone();
    facts["oldObject"] = request.old.clone();
    json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{}", webhook.version),
        "request": facts,
    })
}

/// The response in the AdmissionReview that a webhook returned.
///
/// # Errors
/// The response is malformed, has another UID, or a patch of another type.
pub fn response(
    webhook: &Webhook,
    uid: &str,
    review: &Value,
) -> Result<WebhookResponse, ReviewError> {
    let version = format!("admission.k8s.io/{}", webhook.version);
    let response = &review["response"];
    if webhook.version == "v1" {
        if review["kind"] != "AdmissionReview" || review["apiVersion"] != version.as_str() {
            return Err(ReviewError::Kind {
                version,
                actual_version: review["apiVersion"].clone(),
                actual_kind: review["kind"].clone(),
            });
        }
        if response["uid"] != uid {
            return Err(ReviewError::Uid {
                expected: uid.to_owned(),
                actual: response["uid"].clone(),
            });
        }
    }
    if !response.is_object() {
        return Err(ReviewError::Absent);
    }
    let list = response["warnings"].as_array().into_iter().flatten();
    let warnings = list
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect();
    let annotations = response["auditAnnotations"]
        .as_object()
        .into_iter()
        .flatten();
    let annotations = annotations.filter_map(|(key, value)| {
        let key = format!("{}/{key}", webhook.name);
        Some((key, value.as_str()?.to_owned()))
    });
    let answer = |verdict| WebhookResponse {
        verdict,
        warnings,
        annotations: annotations.collect(),
    };
    if response["allowed"] != true {
        let status = denied(&webhook.name, &response["status"]);
        return Ok(answer(WebhookVerdict::Denied(status)));
    }
    let patch = response["patch"].as_str().filter(|patch| !patch.is_empty());
    match (patch, response["patchType"].as_str()) {
        (None, None) | (Some(_), Some("JSONPatch")) => {}
        (Some(_), None) if webhook.version == "v1beta1" => {}
        (patch, kind) => {
            return Err(ReviewError::Patch {
                has_patch: patch.is_some(),
                patch_type: kind.map(str::to_owned),
            });
        }
    }
    Ok(answer(WebhookVerdict::Allowed {
        patch: patch.map(str::to_owned),
    }))
}

/// The refusal, with the webhook's message if the response contains one.
fn denied(name: &str, result: &Value) -> Status {
    let text = |field: &str| result[field].as_str().unwrap_or_default();
    let by = format!("admission webhook {name:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{by} without explanation"),
        ("", why) | (why, _) => format!("{by}: {why}"),
    };
    let reasons = [
        ("Unauthorized", StatusReason::Unauthorized),
        ("Forbidden", StatusReason::Forbidden),
        ("NotFound", StatusReason::NotFound),
        ("AlreadyExists", StatusReason::AlreadyExists),
        ("Conflict", StatusReason::Conflict),
        ("Invalid", StatusReason::Invalid),
        ("TooManyRequests", StatusReason::TooManyRequests),
        ("InternalError", StatusReason::InternalError),
    ];
    let matching = reasons.iter().find(|(word, _)| *word == text("reason"));
    let code = result["code"]
        .as_u64()
        .and_then(|code| u16::try_from(code).ok());
    let mut status = match (matching, code) {
        (Some((_, reason)), _) => Status::new(*reason, message),
        (None, Some(403)) => Status::new(StatusReason::Forbidden, message),
        _ => Status::bad_request(message),
    };
    if let Some(code) = code.filter(|code| (400..=599).contains(code)) {
        status.code = code;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::webhooks;

    fn hook(version: &str) -> Webhook {
        let configuration = json!({"metadata": {"name": "a"}, "webhooks": [{"name": "a.b.c",
            "admissionReviewVersions": [version]}]});
        webhooks(&[configuration]).remove(0)
    }

    fn admission_review(version: &str, response: Value) -> Value {
        json!({"apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview",
            "response": response})
    }

    #[test]
    fn an_answer_is_to_the_question() {
        let decide = |review: &Value| response(&hook("v1"), "u", review);
        let fine = admission_review(
            "v1",
            json!({"uid": "u", "allowed": true, "warnings": ["w"],
                "auditAnnotations": {"k": "v", "n": 1}}),
        );
        let allowed = WebhookResponse {
            verdict: WebhookVerdict::Allowed { patch: None },
            warnings: vec!["w".to_owned()],
            annotations: vec![("a.b.c/k".to_owned(), "v".to_owned())],
        };
        assert_eq!(decide(&fine), Ok(allowed));
        for (review, why) in [
            (
                admission_review("v1", json!({"uid": "x", "allowed": true})),
                "response.uid",
            ),
            (
                admission_review("v1beta1", json!({"uid": "u"})),
                "expected webhook response",
            ),
            (json!([]), "expected webhook response"),
            (
                admission_review("v1", json!({"uid": "u", "allowed": true, "patch": "W10="})),
                "patchType",
            ),
        ] {
            let error = decide(&review).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        // The older form contains no UID of the request.
        let older = admission_review("v1beta1", json!({"allowed": true, "patch": "W10="}));
        assert!(response(&hook("v1beta1"), "u", &older).is_ok());
    }

    #[test]
    fn a_refusal_has_the_webhooks_words_and_never_a_code_of_success() {
        let refusal = |status: Value| {
            let response = json!({"uid": "u", "allowed": false, "status": status});
            let review = admission_review("v1", response);
            match super::response(&hook("v1"), "u", &review).map(|response| response.verdict) {
                Ok(WebhookVerdict::Denied(status)) => (status.code, status.message),
                other => panic!("{other:?}"),
            }
        };
        let by = "admission webhook \"a.b.c\" denied the request";
        for (status, code, message) in [
            (Value::Null, 400, format!("{by} without explanation")),
            (
                json!({"code": 200, "message": "no"}),
                400,
                format!("{by}: no"),
            ),
            (
                json!({"code": 403, "message": "no"}),
                403,
                format!("{by}: no"),
            ),
            (
                json!({"reason": "Forbidden"}),
                403,
                format!("{by}: Forbidden"),
            ),
        ] {
            assert_eq!(refusal(status), (code, message));
        }
    }
}
