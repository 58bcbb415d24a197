//! The response to a write, for callers that do not need the stored object.

use object_model::{IncompleteMetadata, ResourceVersion, Uid};
use serde::Deserialize;

/// The name, uid and version of a written object. The rest of the response is skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Written {
    name: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Written {
    /// The name; for a generated name, too.
    pub fn name(&self) -> Result<&str, IncompleteMetadata> {
        self.name.as_deref().ok_or(IncompleteMetadata::Name)
    }

    /// The UID that the server gave the object.
    pub fn uid(&self) -> Result<Uid, IncompleteMetadata> {
        self.uid.as_deref().unwrap_or_default().parse()
    }

    /// The version after the write; the previous version if nothing changed.
    pub fn version(&self) -> Result<ResourceVersion, IncompleteMetadata> {
        self.resource_version.as_deref().unwrap_or_default().parse()
    }
}

#[derive(Deserialize)]
pub(crate) struct WriteResponse {
    pub metadata: Written,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_identity_of_a_response_is_decoded() {
        let text = r#"{"kind": "Pod", "metadata": {"name": "web-0", "managedFields": [{}],
            "uid": "u", "resourceVersion": "7"}, "spec": {"containers": [{"name": "main"}]}}"#;
        let response: WriteResponse = serde_json::from_str(text).expect("a response");
        let written = Written {
            name: Some("web-0".to_owned()),
            uid: Some("u".to_owned()),
            resource_version: Some("7".to_owned()),
        };
        assert_eq!(response.metadata, written);
    }
}
