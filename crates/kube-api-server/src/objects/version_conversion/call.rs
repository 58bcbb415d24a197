//! One call of a conversion webhook.

use custom_resources::conversion::{Conversion, ConversionError};
use json_tree::Value;
use object_model::Status;
use uuid::Uuid;

use crate::catalog::registry::Resource;
use crate::http::limits::{CONVERSION_RESPONSE_BYTES_MAX, CONVERSION_TIMEOUT};
use crate::http::work;
use crate::objects::service_client::{self, CallBounds, Destination};
use crate::objects::storage::Objects;

impl Objects {
    /// The objects in the version of the resource, in the order of the originals. The webhook of the kind may not have
    /// removed fields that are unknown in this version.
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
        let refused = |reason: String| Status::internal(conversion.failure(reason).to_string());
        let permits = self.converted_objects.permits(info.storage);
        let call = async {
            let _permit = permits
                .acquire()
                .await
                .map_err(|e| refused(e.to_string()))?;
            let review = conversion.review().to_string();
            let bounds = CallBounds {
                timeout: CONVERSION_TIMEOUT,
                response_bytes_max: CONVERSION_RESPONSE_BYTES_MAX,
            };
            let destination = Destination::of_webhook(&webhook.client, &webhook.ca_bundle);
            let query = format!("timeout={}s", CONVERSION_TIMEOUT.as_secs());
            let call = service_client::post(self, &destination, &query, review.into(), bounds);
            call.await.map_err(|error| refused(error.to_string()))
        };
        // The wait for a permit counts, so that requests for a slow webhook end.
        let body = match tokio::time::timeout(CONVERSION_TIMEOUT, call).await {
            Ok(body) => body?,
            Err(_) => return Err(refused("context deadline exceeded".to_owned())),
        };
        work::expect(body.len()).await;
        let accepted = accepted(&conversion, &body);
        accepted.map_err(|error| Status::internal(error.to_string()))
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
