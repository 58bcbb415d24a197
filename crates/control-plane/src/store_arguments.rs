//! The settings of stored objects.

use anyhow::{Result, ensure};
use object_model::quantity::Quantity;

use super::ProtectionSettings;

/// Minimum quota in bytes: space for the objects that every cluster has, and for some of the user's.
const QUOTA_MIN: u64 = 16 << 20;

/// Flags of stored objects.
#[derive(clap::Args, Debug)]
pub struct StoreArguments {
    /// Maximum size of all stored objects, which are also in memory [default: 1Gi]
    #[arg(long, value_name = "QUANTITY", env = "MAINSTAY_STORE_QUOTA")]
    store_quota: Option<Quantity>,
    #[command(flatten)]
    protection: ProtectionSettings,
}

/// The settings of stored objects.
#[derive(Debug)]
pub struct StoreSettings {
    /// Maximum size of the stored objects in bytes; `None` for the default of the store.
    pub quota: Option<u64>,
    pub protection: ProtectionSettings,
}

impl StoreArguments {
    /// Uses the values of the configuration file for settings without flag or variable.
    ///
    /// # Errors
    /// The quota is too small.
    pub fn over(
        self,
        quota: Option<Quantity>,
        protection: ProtectionSettings,
    ) -> Result<StoreSettings> {
        Ok(StoreSettings {
            quota: self.store_quota.or(quota).map(bytes).transpose()?,
            protection: self.protection.or(protection),
        })
    }
}

fn bytes(quota: Quantity) -> Result<u64> {
    let bytes = u64::try_from(quota.value()).unwrap_or(0);
    ensure!(
        bytes >= QUOTA_MIN,
        "--store-quota {quota}: it has to be at least {}Mi",
        QUOTA_MIN >> 20
    );
    Ok(bytes)
}
