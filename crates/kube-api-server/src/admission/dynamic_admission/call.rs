//! A call of a webhook: one HTTPS request.

use std::time::Duration;

use admission_rules::{ReviewError, Webhook};
use bytes::Bytes;
use json_tree::Value;
use thiserror::Error;

use super::responses::{self, ResponseError};
use crate::http::configured_servers::CallError;
use crate::http::limits::WEBHOOK_RESPONSE_BYTES_MAX;
use crate::http::work;
use crate::objects::service_client::{self, CallBounds, Destination};
use crate::objects::storage::Objects;

/// The reason why a webhook gave no valid response.
#[derive(Debug, Error)]
pub(crate) enum WebhookError {
    #[error("failed to call webhook: {0}")]
    Call(#[from] CallError),
    #[error("failed to call webhook: {0}")]
    Response(#[from] ResponseError),
    #[error("received undecodable patch in webhook response: {0}")]
    Patch(ResponseError),
    #[error(transparent)]
    Review(#[from] ReviewError),
}

impl WebhookError {
    /// The status code for metrics: that of the webhook's response, or 503 (upstream's value).
    pub(super) fn code(&self) -> u16 {
        match self {
            Self::Call(error) => error.refusal().map_or(503, |code| code.as_u16()),
            Self::Response(_) | Self::Patch(_) | Self::Review(_) => 503,
        }
    }
}

/// Calls a webhook; returns its JSON response.
pub(super) async fn send(
    objects: &Objects,
    webhook: &Webhook,
    review: &Value,
) -> Result<Value, WebhookError> {
    let query = format!("timeout={}s", webhook.timeout_seconds);
    let bounds = CallBounds {
        timeout: Duration::from_secs(webhook.timeout_seconds),
        response_bytes_max: WEBHOOK_RESPONSE_BYTES_MAX,
    };
    let review = Bytes::from(review.to_string());
    let destination = Destination::of_webhook(&webhook.client, &webhook.ca_bundle);
    let call = service_client::post(objects, &destination, &query, review, bounds);
    let body = call.await?;
    work::expect(body.len()).await;
    Ok(responses::body(&body)?)
}
