//! The ranges of ServiceCIDRs, on which the rules and routes of a node depend (KEP-1880).

use controller_framework::Cache;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube_api_client::Client;
use object_model::cidr::Cidr;
use process_telemetry::Component;
use resource_kinds::networking::ready_ranges;
use tokio::sync::watch;

use crate::follow::follow;

/// A receiver of the ranges of ServiceCIDRs beside the first range of Services; empty until they are listed.
pub type FurtherRanges = watch::Receiver<Vec<Cidr>>;

/// Watches the ranges of ready ServiceCIDRs, without `first`, in order.
pub fn further_ranges(client: &Client, first: Cidr, component: &Component) -> FurtherRanges {
    let ranges: Cache<ServiceCIDR> = Cache::spawn_all(client, component);
    follow(ranges, component, move |ranges| read(first, ranges))
}

fn read(first: Cidr, ranges: &Cache<ServiceCIDR>) -> Vec<Cidr> {
    let mut all = Vec::new();
    for object in ranges.list() {
        if let Ok(object) = json_tree::to_value(&*object) {
            all.extend(ready_ranges(&object).map(|range| range.range()));
        }
    }
    all.retain(|range| *range != first);
    all.sort_unstable();
    all.dedup();
    all
}
