//! A new pod waits for the default ServiceAccount of a new namespace.

use json_tree::Value;
use resource_kinds::ObjectReader;
use tokio::time::{Instant, sleep};

use crate::http::limits::{ACCOUNT_LOOK_INTERVAL, ACCOUNT_WAIT_MAX};
use crate::objects::storage::{Objects, ReadObjects, reading, reading_once};
use crate::objects::write_request::WriteRequest;

const NAME: &str = "default";

/// A controller creates the account of a new namespace moments later. A pod that comes in between
/// waits for it, as in Kubernetes (the admission plug-in ServiceAccount), and admission refuses it
/// after the wait; a pod with an account of its own is refused at once.
pub(crate) async fn await_it(objects: &Objects, request: &WriteRequest<'_>, object: &Value) {
    let info = request.resource.info();
    let wanted = object["spec"]["serviceAccountName"].as_str();
    if (info.group, info.plural) != ("", "pods") || !matches!(wanted, None | Some("" | NAME)) {
        return;
    }
    let anew = ReadObjects::default();
    let known = request.known.unwrap_or(&anew);
    let is_coming = || {
        let account = reading_once(objects, known, |reads| {
            Ok(reads.get("", "serviceaccounts", request.namespace, NAME))
        });
        // Read at each look: it may go in the meantime.
        let namespace = || {
            reading(objects, |reads| {
                Ok(reads.get("", "namespaces", "", request.namespace))
            })
        };
        // An unreadable object is admission's to refuse.
        matches!(account, Ok(None)) && namespace().is_ok_and(|namespace| namespace.is_some())
    };
    let started = Instant::now();
    while is_coming() && started.elapsed() < ACCOUNT_WAIT_MAX {
        sleep(ACCOUNT_LOOK_INTERVAL).await;
    }
}
