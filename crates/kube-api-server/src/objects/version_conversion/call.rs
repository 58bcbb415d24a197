//! One call of a conversion webhook.

use std::time::Instant;

use bytes::Bytes;
use custom_resources::conversion::{Conversion, ConversionError, WebhookConversion};
use json_tree::Value;
use object_model::Status;
use uuid::Uuid;

use crate::catalog::registry::Resource;
use crate::http::limits::{CONVERSION_RESPONSE_BYTES_MAX, CONVERSION_TIMEOUT};
use crate::http::work;
use crate::objects::service_client::{self, CallBounds, Destination};
use crate::objects::storage::Objects;
use crate::objects::webhook_metrics::ConversionFailure;

impl Objects {
    /// The objects in the version of the resource, in the order of the originals. The webhook of the kind may not have
    /// removed fields that are unknown in this version. The call is counted.
    ///
    /// *Errors.* 500 if the webhook fails, with upstream's text.
    pub(super) async fn converted(
        &self,
        target: &Resource,
        originals: Vec<Value>,
    ) -> Result<Vec<Value>, Status> {
        let Some(webhook) = target.webhook() else {
            return Ok(originals);
        };
        let info = target.info();
        let Some(version) = webhook.review_version else {
            return Err(Status::internal("no supported conversion review versions"));
        };
        let uid = Uuid::new_v4().to_string();
        let conversion = Conversion {
            version,
            uid: uid.parse().map_err(|_| Status::internal("no UID"))?,
            desired_api_version: &info.api_version(),
            objects: &originals,
        };
        let started = Instant::now();
        let body = self.conversion_response(target, &conversion, webhook).await;
        let (converted, failure) = match body {
            Err(reason) => (
                Err(conversion.failure(reason)),
                Some(ConversionFailure::Call),
            ),
            Ok(body) => {
                work::expect(body.len()).await;
                let converted = accepted(&conversion, &body);
                let failure = converted.as_ref().err().map(failure_of);
                (converted, failure)
            }
        };
        self.webhook_metrics.converted(failure, started.elapsed());
        converted.map_err(|error| Status::internal(error.to_string()))
    }

    /// The body of the response of a conversion webhook; the error is a text for the client.
    async fn conversion_response(
        &self,
        target: &Resource,
        conversion: &Conversion<'_>,
        webhook: &WebhookConversion,
    ) -> Result<Bytes, String> {
        let permits = self.converted_objects.permits(target.info().storage);
        let call = async {
            let _permit = permits.acquire().await.map_err(|e| e.to_string())?;
            let review = conversion.review().to_string();
            let bounds = CallBounds {
                timeout: CONVERSION_TIMEOUT,
                response_bytes_max: CONVERSION_RESPONSE_BYTES_MAX,
            };
            let destination = Destination::of_webhook(&webhook.client, &webhook.ca_bundle);
            let query = format!("timeout={}s", CONVERSION_TIMEOUT.as_secs());
            let call = service_client::post(self, &destination, &query, review.into(), bounds);
            call.await.map_err(|error| error.to_string())
        };
        // The wait for a permit counts, so that requests for a slow webhook end.
        match tokio::time::timeout(CONVERSION_TIMEOUT, call).await {
            Ok(body) => body,
            Err(_) => Err("context deadline exceeded".to_owned()),
        }
    }
}

/// The label of a response that cannot be used.
fn failure_of(error: &ConversionError) -> ConversionFailure {
    match error {
        ConversionError::Failed { .. } => ConversionFailure::MalformedResponse,
        ConversionError::Count { returned: 0, .. } => ConversionFailure::NoObjects,
        ConversionError::Count { .. } => ConversionFailure::PartialResponse,
        ConversionError::Object { .. } | ConversionError::Metadata { .. } => {
            ConversionFailure::InvalidObject
        }
    }
}

/// The objects in the body of a response.
///
/// *Errors.* The body is not JSON, or the response breaks a rule.
pub(crate) fn accepted(
    conversion: &Conversion<'_>,
    body: &[u8],
) -> Result<Vec<Value>, ConversionError> {
    let response = serde_json::from_slice(body);
    conversion.accept(response.map_err(|error| conversion.failure(error.to_string()))?)
}
