//! A failed request to the API.

/// A request to the API that failed: the attempt in words, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct ApiError {
    pub what: &'static str,
    #[source]
    pub source: kube_api_client::Error,
}

/// Names the attempt that failed.
pub(crate) fn failed<E: Into<kube_api_client::Error>>(
    what: &'static str,
) -> impl FnOnce(E) -> ApiError {
    move |source| ApiError {
        what,
        source: source.into(),
    }
}
