//! A new pod waits until the default ServiceAccount of a new namespace exists.

use json_tree::Value;
use resource_kinds::ObjectReader;
use tokio::time::{Instant, sleep};

use crate::http::limits::{ACCOUNT_CHECK_INTERVAL, ACCOUNT_WAIT_MAX};
use crate::objects::storage::{Objects, ReadObjects, reading, reading_once};
use crate::objects::write_request::WriteRequest;

const NAME: &str = "default";

/// A controller creates the default account of a new namespace some moments after the namespace. As the admission
/// plug-in ServiceAccount of Kubernetes, a pod that is created in between waits for the account; admission refuses
/// the pod after the wait. A pod with an explicit account is refused at once.
pub(crate) async fn await_it(objects: &Objects, request: &WriteRequest<'_>, object: &Value) {
    let info = request.resource.info();
    let account_name = object["spec"]["serviceAccountName"].as_str();
    if (info.group, info.plural) != ("", "pods") || !matches!(account_name, None | Some("" | NAME))
    {
        return;
    }
    let anew = ReadObjects::default();
    let cached = request.cached.unwrap_or(&anew);
    let is_coming = || {
        let account = reading_once(objects, cached, |reads| {
            Ok(reads.get("", "serviceaccounts", request.namespace, NAME))
        });
        // Read at each check, because the namespace may be deleted in the meantime.
        let namespace = || {
            reading(objects, |reads| {
                Ok(reads.get("", "namespaces", "", request.namespace))
            })
        };
        // If an object is unreadable, admission refuses the request.
        matches!(account, Ok(None)) && namespace().is_ok_and(|namespace| namespace.is_some())
    };
    let started = Instant::now();
    while is_coming() && started.elapsed() < ACCOUNT_WAIT_MAX {
        sleep(ACCOUNT_CHECK_INTERVAL).await;
    }
}
