//! The refusals of quotas.

use thiserror::Error;

/// The reason why a quota refuses an object, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuotaError {
    #[error("failed quota: {quota}: must specify {missing}")]
    Unspecified { quota: String, missing: String },
    #[error("exceeded quota: {quota}, {amounts}")]
    Exceeded { quota: String, amounts: String },
    /// The names of the resources that need a quota.
    #[error("insufficient quota to consume: {0}")]
    UncoveredResources(String),
    /// The scopes that need a quota.
    #[error("insufficient quota to match these scopes: [{0}]")]
    UncoveredScopes(String),
}
