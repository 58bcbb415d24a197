//! The response of a conversion webhook.

use json_tree::Value;

use super::{Conversion, ReviewVersion, string};

/// The `convertedObjects` of a successful response.
///
/// *Errors.* The reason in kube-apiserver's words, or the message of the webhook.
pub(super) fn converted_objects(
    conversion: &Conversion<'_>,
    mut review: Value,
) -> Result<Vec<Value>, String> {
    if conversion.version == ReviewVersion::V1 {
        check_kind(&review)?;
    }
    let Some(response) = review.get_mut("response").filter(|value| value.is_object()) else {
        return Err("no response provided".to_owned());
    };
    // A response in v1beta1 needs neither the kind of the review nor the UID of the request.
    let uid = string(&response["uid"]);
    if conversion.version == ReviewVersion::V1 && conversion.uid != *uid {
        let expected = conversion.uid.as_str();
        return Err(format!("expected response.uid={expected:?}, got {uid:?}"));
    }
    let result = &response["result"];
    let status = string(&result["status"]);
    if status != "Success" {
        return Err(match string(&result["message"]) {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

fn check_kind(review: &Value) -> Result<(), String> {
    let api_version = string(&review["apiVersion"]);
    let kind = string(&review["kind"]);
    let expected = ReviewVersion::V1.api_version();
    if api_version == expected && kind == "ConversionReview" {
        return Ok(());
    }
    Err(format!(
        "expected webhook response of {expected}, Kind=ConversionReview, got {api_version}, Kind={kind}"
    ))
}
