//! SelfSubjectReview and TokenReview.

use json_tree::{Value, json};
use object_model::{FieldError, FieldPath, Status};

use super::texts;
use crate::access::tokens::Tokens;
use crate::catalog::virtual_resources::AUTHENTICATION;
use crate::http::user::UserInfo;

/// The status of a SelfSubjectReview.
pub(super) fn self_review(user: &UserInfo) -> Value {
    json!({"userInfo": user.to_json()})
}

/// The status of a TokenReview. The token itself is removed from the review.
pub(super) async fn of_token(tokens: &Tokens, review: &mut Value) -> Result<Value, Status> {
    let token = review["spec"]["token"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if token.is_empty() {
        let field = FieldPath::root("spec").child("token");
        let error = FieldError::required(&field, "token is required for TokenReview");
        return Err(Status::invalid(AUTHENTICATION, "TokenReview", "", &[error]));
    }
    let audiences = texts(&review["spec"]["audiences"]);
    match tokens.authenticate(&token, &audiences).await {
        Ok(accepted) => Ok(json!({
            "authenticated": true,
            "user": accepted.user.to_json(),
            "audiences": accepted.audiences,
        })),
        Err(refused) => Ok(json!({"user": {}, "error": refused.to_string()})),
    }
}
