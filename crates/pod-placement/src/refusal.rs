//! The reasons why a pod with its claims fits no node.

use thiserror::Error;

use crate::devices::DeviceRefusal;
use crate::volumes::ClaimRefusal;

/// The reason why a pod cannot be placed on any node, as users read it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum PodRefusal {
    #[error(transparent)]
    Claims(#[from] ClaimRefusal),
    #[error(transparent)]
    Devices(#[from] DeviceRefusal),
}
