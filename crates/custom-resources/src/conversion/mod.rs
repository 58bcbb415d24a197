//! Conversion of custom resources between the versions of a definition by a webhook: the request, and the checks of the
//! response.
//!
//! The wire format and the rules are those of `ConversionReview` of `apiextensions.k8s.io`
//! (<https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/#webhook-conversion>).

mod metadata;
mod response;
pub(crate) mod settings;

use json_tree::{Value, json};
use object_model::Uid;
use thiserror::Error;

use metadata::restored;
use response::converted_objects;
pub use settings::{StorageForm, WebhookClient, WebhookConversion};

/// The group of `ConversionReview`.
const GROUP: &str = "apiextensions.k8s.io";

/// A version of `ConversionReview`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewVersion {
    V1,
    V1Beta1,
}

impl ReviewVersion {
    /// The first supported one of the `conversionReviewVersions` of a definition.
    pub fn first_supported<'v>(versions: impl IntoIterator<Item = &'v str>) -> Option<Self> {
        versions.into_iter().find_map(|version| match version {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        })
    }

    fn api_version(self) -> String {
        let version = match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
        };
        format!("{GROUP}/{version}")
    }
}

/// A call of the webhook: objects of one kind, none of which has the desired version.
pub struct Conversion<'o> {
    pub version: ReviewVersion,
    pub uid: Uid,
    /// Group and version of the converted objects.
    pub desired_api_version: &'o str,
    pub objects: &'o [Value],
}

/// A response that cannot be used, in kube-apiserver's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConversionError {
    /// The webhook failed, or its response was not a review.
    #[error("conversion webhook for {kind} failed: {reason}")]
    Failed { kind: String, reason: String },
    #[error("conversion webhook for {kind} returned {returned} objects, expected {expected}")]
    Count {
        kind: String,
        returned: usize,
        expected: usize,
    },
    #[error(
        "conversion webhook for {kind} returned invalid converted object at index {index}: {reason}"
    )]
    Object {
        kind: String,
        index: usize,
        reason: ObjectError,
    },
    #[error(
        "conversion webhook for {kind} returned invalid metadata in object at index {index}: {reason}"
    )]
    Metadata {
        kind: String,
        index: usize,
        reason: String,
    },
}

/// The difference between a converted object and its original, or between its version and the desired version.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ObjectError {
    #[error("invalid groupVersion (expected {expected}, received {received})")]
    Version { expected: String, received: String },
    #[error("must have the same {field}: {expected} != {received}")]
    Field {
        field: &'static str,
        expected: String,
        received: String,
    },
}

impl Conversion<'_> {
    /// The body of the request.
    pub fn review(&self) -> Value {
        json!({
            "apiVersion": self.version.api_version(),
            "kind": "ConversionReview",
            "request": {
                "uid": self.uid.as_str(),
                "desiredAPIVersion": self.desired_api_version,
                "objects": self.objects,
            },
        })
    }

    /// The converted objects in the order of the originals. Their metadata is that of the originals, but for labels and
    /// annotations.
    ///
    /// # Errors
    /// The webhook reports a failure, or the response breaks a rule.
    pub fn accept(&self, response: Value) -> Result<Vec<Value>, ConversionError> {
        let converted = converted_objects(self, response).map_err(|reason| self.failure(reason))?;
        if converted.len() != self.objects.len() {
            return Err(ConversionError::Count {
                kind: self.kind(),
                returned: converted.len(),
                expected: self.objects.len(),
            });
        }
        let pairs = self.objects.iter().zip(converted);
        let checked = pairs.enumerate().map(|(index, (original, mut object))| {
            self.compare(original, &object)
                .map_err(|reason| ConversionError::Object {
                    kind: self.kind(),
                    index,
                    reason,
                })?;
            let metadata = restored(&original["metadata"], &object["metadata"]);
            object["metadata"] = metadata.map_err(|reason| ConversionError::Metadata {
                kind: self.kind(),
                index,
                reason,
            })?;
            Ok(object)
        });
        checked.collect()
    }

    /// The error of a call without a response.
    pub fn failure(&self, reason: String) -> ConversionError {
        ConversionError::Failed {
            kind: self.kind(),
            reason,
        }
    }

    /// Group, version and kind of the originals, as Go prints them: `example.com/v1, Kind=Foo`.
    fn kind(&self) -> String {
        let first = self.objects.first();
        let text = |field: &str| {
            first
                .and_then(|object| object[field].as_str())
                .unwrap_or("")
        };
        format!("{}, Kind={}", text("apiVersion"), text("kind"))
    }

    fn compare(&self, original: &Value, object: &Value) -> Result<(), ObjectError> {
        let received = string(&object["apiVersion"]);
        if received != self.desired_api_version {
            return Err(ObjectError::Version {
                expected: self.desired_api_version.to_owned(),
                received: received.to_owned(),
            });
        }
        let fields = [
            ("kind", "/kind"),
            ("name", "/metadata/name"),
            ("namespace", "/metadata/namespace"),
            ("UID", "/metadata/uid"),
        ];
        for (field, pointer) in fields {
            let [expected, received] =
                [original, object].map(|object| object.pointer(pointer).map_or("", string));
            if expected != received {
                return Err(ObjectError::Field {
                    field,
                    expected: expected.to_owned(),
                    received: received.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// The string; empty for every other value, as Go's accessors of untyped objects return it.
fn string(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests;
