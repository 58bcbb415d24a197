//! The watch of disk usage: claims get an event before their volume is full, and when an unlimited
//! volume holds more than its claim requests.
//!
//! A quota makes the check cheap. A plain directory is walked through, and the longer that takes,
//! the less often it is done.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use controller_framework::object_key;
use controller_planners::volume_provisioning::local::{
    VolumeMode, is_ours, path_of, size_of_volume, volume_mode,
};
use host_kernel::disk_usage::{VolumeUsage, VolumeUsages};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use resource_kinds::MetadataIdentity;
use resource_kinds::reasons::volume as reasons;
use resource_kinds::storage::Driver;
use volume_storage::readable_bytes;

use super::Provisioner;
use super::claim_key;
use super::error::ProvisionerError as Error;

/// Maximum share of the time that walks take.
const PART: u32 = 100;
/// A volume is nearly full from this percentage on.
const NEARLY: u64 = 90;

/// The fill level of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Fine,
    Nearly,
    Over,
}

fn level(used: u64, size: u64) -> Level {
    if used > size {
        Level::Over
    } else if used.saturating_mul(100) >= size.saturating_mul(NEARLY) {
        Level::Nearly
    } else {
        Level::Fine
    }
}

/// The last check of a volume.
#[derive(Clone, Copy, Debug, Default)]
struct VolumeCheck {
    level: Level,
    /// The time of the next walk.
    next: Option<Instant>,
    usage: Option<VolumeUsage>,
}

impl Provisioner {
    /// Looks again and again, until it is dropped.
    pub(crate) async fn watch_usage(self: Arc<Self>) {
        let mut checks: BTreeMap<Arc<str>, VolumeCheck> = BTreeMap::new();
        loop {
            let volumes = self.volumes.list();
            let ours = volumes.iter().filter(|volume| {
                let phase = volume
                    .status
                    .as_ref()
                    .and_then(|status| status.phase.as_deref());
                // The usage of a block device is the maximum ever written; only its user can
                // interpret it.
                phase == Some("Bound")
                    && volume_mode(volume) == VolumeMode::Filesystem
                    && is_ours(volume, &self.config.node_name)
            });
            let mut current = BTreeMap::new();
            let mut usages = VolumeUsages::new();
            for volume in ours {
                let name = object_key(&**volume).name;
                let before = checks.get(&name).copied().unwrap_or_default();
                let after = match self.check(volume, before).await {
                    Ok(after) => after,
                    Err(error) => {
                        let error = kube_api_client::guarded_writes::chain(&error);
                        tracing::debug!(volume = %name, error, "usage not known");
                        before
                    }
                };
                let path = PathBuf::from(path_of(volume));
                usages.extend(after.usage.map(|usage| (path, usage)));
                current.insert(name, after);
            }
            checks = current;
            self.config.usages.send_replace(usages);
            tokio::time::sleep(self.config.usage_interval).await;
        }
    }

    async fn check(
        &self,
        volume: &PersistentVolume,
        before: VolumeCheck,
    ) -> Result<VolumeCheck, Error> {
        let due = before.next.is_none_or(|next| next <= Instant::now());
        let Some(driver) = Driver::of_volume(volume).filter(|_| due) else {
            return Ok(before);
        };
        let name = volume.metadata.object_name()?;
        let counted = self.config.storage.count(driver, name).await?;
        let (used, limit, next) = match counted {
            Some(count) => (count.referenced, count.limit, None),
            None => {
                let start = Instant::now();
                let path = PathBuf::from(path_of(volume));
                let used = self.config.storage.measure(path).await?;
                (used, None, Some(Instant::now() + start.elapsed() * PART))
            }
        };
        let size = size_of_volume(volume);
        let level = level(used, size);
        if level > before.level
            && let Some(claim) = self.claim(volume)
        {
            let (reason, text) = words(level, limit.is_some(), used, size);
            self.recorder.warning(&*claim, reason, text);
        }
        Ok(VolumeCheck {
            level,
            next,
            usage: Some(VolumeUsage { used, limit }),
        })
    }

    fn claim(&self, volume: &PersistentVolume) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get_key(&claim_key(volume)?)
    }
}

fn words(level: Level, limited: bool, used: u64, size: u64) -> (&'static str, String) {
    let (used, size) = (readable_bytes(used), readable_bytes(size));
    match level {
        Level::Over if !limited => (
            reasons::OVERFULL,
            format!(
                "the volume holds {used}, more than the {size} of its claim; nothing stops it in \
                 this class"
            ),
        ),
        _ => (
            reasons::NEARLY_FULL,
            format!("the volume holds {used} of the {size} of its claim"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_before_and_past_the_claims_size() {
        assert_eq!(level(899, 1000), Level::Fine);
        assert_eq!(level(900, 1000), Level::Nearly);
        assert_eq!(level(1000, 1000), Level::Nearly);
        assert_eq!(level(1001, 1000), Level::Over);
    }

    #[test]
    fn what_is_limited_cannot_be_overfull() {
        assert_eq!(words(Level::Over, true, 2, 1).0, reasons::NEARLY_FULL);
        assert_eq!(words(Level::Over, false, 2, 1).0, reasons::OVERFULL);
    }
}
