//! The controller of ServiceCIDRs: executor of [`controller_planners::service_cidrs`].

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use controller_framework::{Cache, Queue, ReconcileResult, object_key};
use controller_planners::service_cidrs::{RangePlan, needs_addresses, plan};
use jiff::Timestamp;
use json_tree::json;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube_api_client::guarded_writes::unless_outrun;
use kube_api_client::{Api, ListParams, Patch, PatchParams};

use crate::Context;

/// Wait between two reads of the addresses while a deleted range has some. Addresses are not watched, because they are read
/// for a deleted range alone.
const RECHECK: Duration = Duration::from_secs(5);

/// Addresses per list request.
const PAGE: u32 = 500;

/// The error of processing a range.
#[derive(Debug, thiserror::Error)]
#[error("maintain a ServiceCIDR")]
struct Error(#[from] kube_api_client::Error);

struct ServiceCidrs {
    ranges: Cache<ServiceCIDR>,
    api: Api<ServiceCIDR>,
    addresses: Api<IPAddress>,
}

pub(crate) async fn run(context: Context) {
    let controller = ServiceCidrs {
        ranges: context.cache(),
        api: Api::all(context.client.clone()),
        addresses: Api::all(context.client.clone()),
    };
    context.run("service_cidrs", controller).await;
}

impl controller_framework::Controller for ServiceCidrs {
    type Key = String;
    type Error = Error;

    const WORKERS: usize = 1;

    async fn wait_synced(&self) -> bool {
        self.ranges.wait_synced().await
    }

    /// A change of one range may release another.
    async fn feed(&self, queue: &Queue<String>) {
        let mut changes = self.ranges.subscribe();
        while changes.next().await.is_some() {
            for range in self.ranges.list() {
                queue.add(object_key(&*range).name.to_string());
            }
        }
    }

    async fn reconcile(&self, name: &String) -> Result<ReconcileResult, Error> {
        let Some(range) = self.ranges.get("", name) else {
            return Ok(ReconcileResult::Done);
        };
        let addresses = if needs_addresses(&range) {
            self.addresses().await?
        } else {
            Vec::new()
        };
        let all = self.ranges.list();
        let all = all.iter().map(Arc::as_ref);
        let meta = json!({
            "uid": range.metadata.uid,
            "resourceVersion": range.metadata.resource_version,
        });
        let params = PatchParams::default();
        match plan(&range, all, &addresses, Timestamp::now()) {
            RangePlan::Leave => {}
            RangePlan::Wait(time) => return Ok(ReconcileResult::RequeueAfter(time)),
            RangePlan::InUse => return Ok(ReconcileResult::RequeueAfter(RECHECK)),
            RangePlan::SetFinalizers(finalizers) => {
                let mut meta = meta;
                meta["finalizers"] = json!(finalizers);
                let patch = Patch::Merge(json!({ "metadata": meta }));
                unless_outrun(self.api.patch(name, &params, &patch).await)?;
            }
            RangePlan::SetConditions(conditions) => {
                let status = json!({ "conditions": conditions });
                let patch = Patch::Merge(json!({ "metadata": meta, "status": status }));
                unless_outrun(self.api.patch_status(name, &params, &patch).await)?;
            }
        }
        Ok(ReconcileResult::Done)
    }
}

impl ServiceCidrs {
    /// The IPv4 addresses of all Services.
    async fn addresses(&self) -> Result<Vec<Ipv4Addr>, Error> {
        let (mut addresses, mut page) = (Vec::new(), Some(ListParams::default().limit(PAGE)));
        while let Some(params) = page {
            let listed = self.addresses.list_metadata(&params).await?;
            let names = listed.items.iter().map(|item| &item.metadata.name);
            addresses.extend(
                names
                    .flatten()
                    .filter_map(|name| name.parse::<Ipv4Addr>().ok()),
            );
            page = params.next(listed.metadata.continue_);
        }
        Ok(addresses)
    }
}
