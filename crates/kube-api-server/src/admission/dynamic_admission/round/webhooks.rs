//! Calls of webhooks in the admission of a request.

use std::fmt::Display;

use admission_rules::{Webhook, WebhookVerdict};
use json_tree::{Value, json};
use object_model::Status;

use super::policies::MutationError;
use super::{AdmissionReviewer, call, responses};
use crate::http::audit_annotations::AnnotationLevel;

/// The position of a webhook's call in a review, for the keys of audit annotations.
#[derive(Clone, Copy)]
pub(super) struct CallSite {
    pub(super) is_mutating: bool,
    pub(super) round: usize,
    pub(super) index: usize,
}

impl CallSite {
    /// The key of an annotation about the call.
    fn key(self, prefix: &str) -> String {
        let Self { round, index, .. } = self;
        format!("{prefix}.webhook.admission.k8s.io/round_{round}_index_{index}")
    }
}

/// The result of the call of a webhook that did not refuse the request.
pub(super) enum WebhookCall {
    Allowed {
        /// The index of the version that the webhook got.
        index: usize,
        /// A JSON patch in base64; `None` if the object is unchanged.
        patch: Option<String>,
    },
    /// The call failed, and the `failurePolicy` is `Ignore`.
    FailedOpen,
}

impl AdmissionReviewer<'_> {
    pub(super) async fn by_webhook(
        &self,
        webhook: &Webhook,
        site: CallSite,
        object: &mut Value,
    ) -> Result<bool, Status> {
        let mutated = self.mutation(webhook, site, object).await;
        if let Some(mutated) = mutated.as_ref().unwrap_or(&Some(false)) {
            let value = json!({"configuration": webhook.configuration, "webhook": webhook.name,
                "mutated": mutated});
            let (key, value) = (site.key("mutation"), value.to_string());
            self.write_request
                .annotate(&key, &value, AnnotationLevel::Metadata);
        }
        mutated.map(|mutated| mutated.unwrap_or(false))
    }

    /// Whether a webhook changed the object; `None` if the webhook was not called.
    async fn mutation(
        &self,
        webhook: &Webhook,
        site: CallSite,
        object: &mut Value,
    ) -> Result<Option<bool>, Status> {
        let Some(called) = self.response_of(webhook, site, object).await? else {
            return Ok(None);
        };
        let WebhookCall::Allowed {
            index,
            patch: Some(patch),
        } = called
        else {
            return Ok(Some(false));
        };
        let patch = responses::patch(&patch).map_err(|error| failed(webhook, &error))?;
        if patch.as_array().is_some_and(Vec::is_empty) {
            return Ok(Some(false));
        }
        if object.is_null() {
            let name = &webhook.name;
            return Err(Status::internal(format!(
                "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
            )));
        }
        let mutated = self
            .in_version(index, object)
            .await?
            .map_err(MutationError::from)
            .and_then(|converted| Ok(responses::apply(converted, &patch)?));
        let mutated = mutated.map_err(|error| failed(webhook, &error))?;
        let mutated = self.in_version_of_request(index, mutated).await?;
        let result = self.store_mutated(index, mutated, object);
        let differs = result.map_err(|error| failed(webhook, &error))?;
        let value = json!({"configuration": webhook.configuration, "webhook": webhook.name,
            "patch": patch, "patchType": "JSONPatch"});
        let (key, value) = (site.key("patch"), value.to_string());
        self.write_request
            .annotate(&key, &value, AnnotationLevel::Request);
        Ok(Some(differs))
    }

    /// Calls a webhook; `None` if the webhook does not match.
    ///
    /// *Errors.* The refusal of the webhook, or its failure with `failurePolicy: Fail`.
    pub(super) async fn response_of(
        &self,
        webhook: &Webhook,
        site: CallSite,
        object: &Value,
    ) -> Result<Option<WebhookCall>, Status> {
        let uid = uuid::Uuid::new_v4().to_string();
        let request = self.request(0, &uid, object, self.old);
        let match_result = webhook.match_request(&request, &self.subjects());
        let Some(index) = match_result.map_err(|error| failed(webhook, &error))? else {
            return Ok(None);
        };
        if self.write_request.dry_run && !webhook.supports_dry_run {
            let name = &webhook.name;
            let text = format!("admission webhook {name:?} does not support dry run");
            return Err(Status::bad_request(text));
        }
        let convert = async |object| {
            let converted = self.in_version(index, object).await?;
            converted.map_err(|error| Status::internal(error.to_string()))
        };
        let (object, old) = (convert(object).await?, convert(self.old).await?);
        let review = admission_rules::review(webhook, &self.request(index, &uid, &object, &old));
        let answer = call::send(self.objects, webhook, &review).await;
        let answer =
            answer.and_then(|answer| Ok(admission_rules::response(webhook, &uid, &answer)?));
        let response = match answer {
            Ok(response) => response,
            Err(error) if webhook.must_succeed => return Err(failed(webhook, &error)),
            Err(error) => {
                tracing::warn!(webhook = webhook.name, why = %error, "a webhook did not answer");
                let prefix = match site.is_mutating {
                    true => "failed-open.mutation",
                    false => "failed-open.validating",
                };
                let (key, name) = (site.key(prefix), &webhook.name);
                self.write_request
                    .annotate(&key, name, AnnotationLevel::Metadata);
                return Ok(Some(WebhookCall::FailedOpen));
            }
        };
        self.write_request.warn(response.warnings);
        for (key, value) in &response.annotations {
            self.write_request
                .annotate(key, value, AnnotationLevel::Metadata);
        }
        match response.verdict {
            WebhookVerdict::Allowed { patch } => Ok(Some(WebhookCall::Allowed { index, patch })),
            WebhookVerdict::Denied(status) => Err(status),
        }
    }
}

/// The error for a webhook with `failurePolicy: Fail` that did not respond, or gave an invalid response.
fn failed(webhook: &Webhook, error: &dyn Display) -> Status {
    let name = &webhook.name;
    Status::internal(format!("failed calling webhook {name:?}: {error}"))
}
