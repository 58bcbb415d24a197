//! Calls of webhooks in the admission of a request.

use std::fmt::Display;
use std::time::Instant;

use admission_rules::{Webhook, WebhookVerdict};
use json_tree::{Value, json};
use object_model::Status;

use super::call::WebhookError;
use super::policies::MutationError;
use super::{AdmissionReviewer, call, responses};
use crate::http::audit_annotations::AnnotationLevel;
use crate::objects::webhook_metrics::{AdmissionCall, AdmissionResult};

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

/// A webhook that applies to the request.
struct MatchedWebhook<'w> {
    webhook: &'w Webhook,
    site: CallSite,
    /// The index of the version that the webhook gets.
    index: usize,
    uid: String,
}

/// The result of the call of a webhook that did not refuse the request.
enum WebhookCall {
    /// The JSON patch; `None` if the webhook has none.
    Allowed(Option<Value>),
    /// The call failed with this code, and the `failurePolicy` is `Ignore`.
    FailedOpen(u16),
}

/// The reason why a write is refused.
enum Refusal {
    /// The webhook denied it.
    Denied(Status),
    /// The webhook gave no valid response, and the `failurePolicy` is `Fail`; with the code of the failure.
    Failed(Status, u16),
    /// This server cannot make the request or use the response.
    Server(Status),
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::Server(status)
    }
}

impl Refusal {
    fn result(&self) -> AdmissionResult {
        match self {
            Self::Denied(status) => AdmissionResult::Denied { code: status.code },
            Self::Failed(_, code) => AdmissionResult::FailedClosed { code: *code },
            Self::Server(_) => AdmissionResult::ServerError,
        }
    }

    fn into_status(self) -> Status {
        match self {
            Self::Denied(status) | Self::Failed(status, _) | Self::Server(status) => status,
        }
    }
}

impl AdmissionReviewer<'_> {
    /// Runs a mutating webhook; returns whether it changed the object.
    ///
    /// *Errors.* As of [`judge_by_webhook`](Self::judge_by_webhook).
    pub(super) async fn by_webhook(
        &self,
        webhook: &Webhook,
        site: CallSite,
        object: &mut Value,
    ) -> Result<bool, Status> {
        let Some(matched) = self.matched(webhook, site, object)? else {
            return Ok(false);
        };
        let started = Instant::now();
        let mutation = self.mutation(&matched, object).await;
        let (result, mutated) = match &mutation {
            Ok((result, mutated)) => (*result, *mutated),
            Err(refusal) => (refusal.result(), false),
        };
        self.count(webhook, site, result, started);
        let value = json!({"configuration": webhook.configuration, "webhook": webhook.name,
            "mutated": mutated});
        let (key, value) = (site.key("mutation"), value.to_string());
        self.write_request
            .annotate(&key, &value, AnnotationLevel::Metadata);
        mutation.map(|_| mutated).map_err(Refusal::into_status)
    }

    /// Runs a validating webhook.
    ///
    /// *Errors.* The refusal of the webhook, or its failure with `failurePolicy: Fail`.
    pub(super) async fn judge_by_webhook(
        &self,
        webhook: &Webhook,
        site: CallSite,
        object: &Value,
    ) -> Result<(), Status> {
        let Some(matched) = self.matched(webhook, site, object)? else {
            return Ok(());
        };
        let started = Instant::now();
        let called = self.response_of(&matched, object).await;
        let result = match &called {
            Ok(WebhookCall::Allowed(_)) => AdmissionResult::Allowed,
            Ok(WebhookCall::FailedOpen(code)) => AdmissionResult::FailedOpen { code: *code },
            Err(refusal) => refusal.result(),
        };
        self.count(webhook, site, result, started);
        called.map(drop).map_err(Refusal::into_status)
    }

    fn count(&self, webhook: &Webhook, site: CallSite, result: AdmissionResult, started: Instant) {
        let call = AdmissionCall {
            webhook: webhook.name.clone(),
            is_mutating: site.is_mutating,
            operation: self.operation,
        };
        let metrics = &self.objects.webhook_metrics;
        metrics.admitted(call, result, started.elapsed());
    }

    /// The webhook, if it applies to the request.
    ///
    /// *Errors.* A match condition fails, and the `failurePolicy` is `Fail`.
    fn matched<'w>(
        &self,
        webhook: &'w Webhook,
        site: CallSite,
        object: &Value,
    ) -> Result<Option<MatchedWebhook<'w>>, Status> {
        let uid = uuid::Uuid::new_v4().to_string();
        let request = self.request(0, &uid, object, self.old);
        let index = webhook.match_request(&request, &self.subjects());
        let index = index.map_err(|error| failed(webhook, &error))?;
        Ok(index.map(|index| MatchedWebhook {
            webhook,
            site,
            index,
            uid,
        }))
    }

    /// The result of a mutating webhook, and whether it changed the object.
    async fn mutation(
        &self,
        matched: &MatchedWebhook<'_>,
        object: &mut Value,
    ) -> Result<(AdmissionResult, bool), Refusal> {
        let MatchedWebhook {
            webhook,
            site,
            index,
            ..
        } = *matched;
        let patch = match self.response_of(matched, object).await? {
            WebhookCall::FailedOpen(code) => {
                return Ok((AdmissionResult::FailedOpen { code }, false));
            }
            WebhookCall::Allowed(None) => return Ok((AdmissionResult::Allowed, false)),
            WebhookCall::Allowed(Some(patch)) => patch,
        };
        if patch.as_array().is_some_and(Vec::is_empty) {
            return Ok((AdmissionResult::Allowed, false));
        }
        if object.is_null() {
            let name = &webhook.name;
            return Err(Refusal::Server(Status::internal(format!(
                "admission webhook {name:?} attempted to modify the object, which is not supported for this operation"
            ))));
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
        Ok((AdmissionResult::Allowed, differs))
    }

    /// Calls a webhook.
    async fn response_of(
        &self,
        matched: &MatchedWebhook<'_>,
        object: &Value,
    ) -> Result<WebhookCall, Refusal> {
        let MatchedWebhook {
            webhook,
            index,
            ref uid,
            ..
        } = *matched;
        if self.write_request.dry_run && !webhook.supports_dry_run {
            let name = &webhook.name;
            let text = format!("admission webhook {name:?} does not support dry run");
            return Err(Refusal::Server(Status::bad_request(text)));
        }
        let convert = async |object| {
            let converted = self.in_version(index, object).await?;
            converted.map_err(|error| Status::internal(error.to_string()))
        };
        let (object, old) = (convert(object).await?, convert(self.old).await?);
        let review = admission_rules::review(webhook, &self.request(index, uid, &object, &old));
        let answer = call::send(self.objects, webhook, &review).await;
        let answer =
            answer.and_then(|answer| Ok(admission_rules::response(webhook, uid, &answer)?));
        let response = match answer {
            Ok(response) => response,
            Err(error) => return self.failure(matched, &error),
        };
        self.write_request.warn(response.warnings);
        for (key, value) in &response.annotations {
            self.write_request
                .annotate(key, value, AnnotationLevel::Metadata);
        }
        match response.verdict {
            WebhookVerdict::Denied(status) => Err(Refusal::Denied(status)),
            WebhookVerdict::Allowed { patch: None } => Ok(WebhookCall::Allowed(None)),
            WebhookVerdict::Allowed { patch: Some(text) } => match responses::patch(&text) {
                Ok(patch) => Ok(WebhookCall::Allowed(Some(patch))),
                Err(error) => self.failure(matched, &WebhookError::Patch(error)),
            },
        }
    }

    /// The result of a call without a valid response, by the `failurePolicy`.
    fn failure(
        &self,
        matched: &MatchedWebhook<'_>,
        error: &WebhookError,
    ) -> Result<WebhookCall, Refusal> {
        let (webhook, site) = (matched.webhook, matched.site);
        if webhook.must_succeed {
            return Err(Refusal::Failed(failed(webhook, error), error.code()));
        }
        tracing::warn!(webhook = webhook.name, why = %error, "a webhook did not answer");
        let prefix = match site.is_mutating {
            true => "failed-open.mutation",
            false => "failed-open.validating",
        };
        let (key, name) = (site.key(prefix), &webhook.name);
        self.write_request
            .annotate(&key, name, AnnotationLevel::Metadata);
        Ok(WebhookCall::FailedOpen(error.code()))
    }
}

/// The error for a webhook with `failurePolicy: Fail` that did not respond, or gave an invalid response.
fn failed(webhook: &Webhook, error: &dyn Display) -> Status {
    let name = &webhook.name;
    Status::internal(format!("failed calling webhook {name:?}: {error}"))
}
