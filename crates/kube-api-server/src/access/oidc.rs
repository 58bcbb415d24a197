//! OpenID Connect discovery of the issuer of service account tokens, as far as Kubernetes serves
//! it.

use http::HeaderValue;
use http::header::CACHE_CONTROL;
use json_tree::json;
use object_model::Status;

use crate::access::tokens::{ISSUER, Tokens};
use crate::http::refusals::unknown_path;
use crate::http::reply::{JSON, Reply};

pub(crate) const CONFIGURATION: &str = "/.well-known/openid-configuration";
pub(crate) const KEYS: &str = "/openid/v1/jwks";

/// Responds with one of the two documents.
///
/// *Errors.* 404 for other paths, and if the server issues no tokens.
pub(crate) fn respond(tokens: &Tokens, path: &str) -> Result<Reply, Status> {
    let keys = tokens.public_keys().ok_or_else(unknown_path)?;
    let (content_type, document) = match path {
        CONFIGURATION => {
            let algorithms: Vec<&str> = keys["keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|key| key["alg"].as_str())
                .collect();
            let document = json!({
                "issuer": ISSUER,
                "jwks_uri": format!("{ISSUER}{KEYS}"),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": algorithms,
            });
            (JSON, document)
        }
        KEYS => ("application/jwk-set+json", keys),
        _ => return Err(unknown_path()),
    };
    // The documents change only when the key changes. The time is upstream's.
    let cache_control = HeaderValue::from_static("public, max-age=3600");
    let reply = Reply::bytes(content_type, document.to_string());
    Ok(reply.with_header(CACHE_CONTROL, cache_control))
}
