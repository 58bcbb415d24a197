//! `componentstatuses`: the health of the control plane's components, checked at each request (`kubectl get cs`). The
//! objects are not stored.
//!
//! The names are Kubernetes' names: `etcd-0` is the store.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use json_tree::{Value, json};
use object_model::{FieldSelector, LabelSelector, Status};
use resource_kinds::{Verb, table};

use crate::catalog::virtual_resources::COMPONENT_STATUS as INFO;
use crate::handlers::health;
use crate::handlers::output::{self, Columns};
use crate::http::call::Call;
use crate::http::query::Query;
use crate::http::reply::Reply;
use crate::objects::storage::Objects;

const DEPRECATION: &str = "v1 ComponentStatus is deprecated in v1.19+";

const COLUMNS: Columns = Columns {
    headings: &[
        table::NAME,
        table::column("Status", "Status of the component conditions"),
        table::column("Message", "Message of the component conditions"),
        table::column("Error", "Error of the component conditions"),
    ],
    cells,
};

/// A component outside of the server with a health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    ControllerManager,
    Scheduler,
}

type Check = Box<dyn Fn() -> bool + Send + Sync>;

/// The components that were added with [`add`](Self::add).
#[derive(Default)]
pub(crate) struct Components(Mutex<BTreeMap<Component, Check>>);

impl Components {
    /// Adds a component. `runs` is called at each request and returns whether the component runs. A component that
    /// was not added is reported as unhealthy.
    pub(crate) fn add(
        &self,
        component: Component,
        runs: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(component, Box::new(runs));
    }

    fn runs(&self, component: Component) -> bool {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.get(&component).is_some_and(|runs| runs())
    }
}

/// Responds to a get or a list.
///
/// *Errors.* 404 for an unknown component, 400 for selectors that do not parse.
pub(crate) async fn respond(
    components: &Components,
    objects: &Objects,
    verb: Verb,
    call: &Call,
) -> Result<Reply, Status> {
    let info = &call.info;
    call.warnings.add([DEPRECATION.to_owned()]);
    let mut all = statuses(components, objects).await;
    if verb == Verb::List {
        let selects = selector(&call.query)?;
        all.retain(selects);
        return output::virtual_list(call, &INFO, all, &COLUMNS).await;
    }
    let one = all
        .iter()
        .find(|status| status["metadata"]["name"] == *info.name);
    match one {
        Some(one) => output::virtual_object(call, &INFO, one, &COLUMNS),
        None => Err(Status::not_found(INFO.group, INFO.plural, &info.name)),
    }
}

async fn statuses(components: &Components, objects: &Objects) -> Vec<Value> {
    let part = |component| match components.runs(component) {
        true => json!({"status": "True", "message": "ok"}),
        false => json!({"status": "False", "message": "it does not run"}),
    };
    let failure = health::store_failure(objects).await;
    let store = match failure.or_else(|| objects.store.occupancy().full) {
        None => json!({"status": "True", "message": "ok"}),
        Some(error) => json!({"status": "False", "error": error.to_string()}),
    };
    let all = [
        ("controller-manager", part(Component::ControllerManager)),
        ("etcd-0", store),
        ("scheduler", part(Component::Scheduler)),
    ];
    all.into_iter()
        .map(|(name, mut condition)| {
            condition["type"] = json!("Healthy");
            json!({"kind": INFO.kind, "apiVersion": INFO.api_version(),
                "metadata": {"name": name}, "conditions": [condition]})
        })
        .collect()
}

/// The filter of a list.
///
/// *Errors.* 400 for selectors that do not parse, and for fields other than the name.
fn selector(query: &Query) -> Result<impl Fn(&Value) -> bool, Status> {
    let labels = query.get("labelSelector").unwrap_or_default();
    let labels = LabelSelector::parse(labels).map_err(refused)?;
    let fields = query.get("fieldSelector").unwrap_or_default();
    let fields = FieldSelector::parse(fields).map_err(refused)?;
    if let Some(term) = fields
        .terms()
        .iter()
        .find(|term| term.field != "metadata.name")
    {
        let text = format!("field label not supported: {}", term.field);
        return Err(Status::bad_request(text));
    }
    Ok(move |object: &Value| {
        let name = |_: &str| object["metadata"]["name"].as_str().map(str::to_owned);
        labels.matches_object(object) && fields.matches_by(name)
    })
}

fn refused(error: impl std::fmt::Display) -> Status {
    Status::bad_request(error.to_string())
}

fn cells(status: &Value) -> Vec<Value> {
    let condition = &status["conditions"][0];
    let text = |field: &str| json!(condition[field].as_str().unwrap_or_default());
    let health = match condition["status"] == "True" {
        true => "Healthy",
        false => "Unhealthy",
    };
    let name = status["metadata"]["name"].clone();
    vec![name, json!(health), text("message"), text("error")]
}
