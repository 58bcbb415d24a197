use controller_planners::stateful_set::forecast::ForecastError;
use manifest_apply::ApplyError;

/// The reason why there is no forecast.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The server refuses a read or does not respond; with the remedy.
    #[error(transparent)]
    Server(#[from] cluster_inspection::InspectionError),
    /// The server refuses a manifest.
    #[error(transparent)]
    Manifest(#[from] ApplyError),
    #[error("{0}")]
    NoSuchSet(String),
    #[error("the server's answer is no {kind}")]
    Malformed {
        kind: &'static str,
        source: json_tree::Error,
    },
    #[error("forecast the rollout")]
    Forecast(#[from] ForecastError),
    /// The set or its policy has changed since the plan that the user has seen.
    #[error("the cluster is not as it was planned: {0}; look at the new plan first")]
    Changed(String),
}
