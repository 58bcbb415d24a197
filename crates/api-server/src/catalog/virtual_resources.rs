//! Kinds whose objects are made when somebody asks, and stored nowhere: the list.

use resource_kinds::KindInfo;

use crate::catalog::registry::is_at;
use crate::handlers::component_health;
use crate::handlers::resource_metrics;
use crate::handlers::reviews;

/// The facts of all of them.
pub(crate) fn infos() -> impl Iterator<Item = &'static KindInfo> {
    [
        reviews::INFOS,
        resource_metrics::INFOS,
        component_health::INFOS,
    ]
    .into_iter()
    .flatten()
}

/// The one at a path.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static KindInfo> {
    infos().find(|info| is_at(info, group, version, plural))
}
