//! A small operator with the crate `kube`: the kind is derived from a struct; the controller, the finalizer and the
//! events are those of the crate.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use end_to_end::{Instance, wait_for};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Client, CustomResource, CustomResourceExt, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const FINALIZER: &str = "greetings.example.com/farewell";

/// The subject of the greeting.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "greetings.example.com",
    version = "v1",
    kind = "Greeting",
    namespaced,
    status = "GreetingStatus",
    shortname = "hi",
    printcolumn = r#"{"name": "Whom", "type": "string", "jsonPath": ".spec.whom"}"#,
    validation = "self.spec.whom != 'nobody'"
)]
struct GreetingSpec {
    whom: String,
    #[serde(default = "plain")]
    tone: String,
}

fn plain() -> String {
    "plain".to_owned()
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
struct GreetingStatus {
    said: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("an object without what every object has")]
    Bare,
    #[error(transparent)]
    Finalizer(#[from] Box<kube::runtime::finalizer::Error<Trouble>>),
}

struct Operator {
    client: Client,
    recorder: Recorder,
}

async fn reconcile(greeting: Arc<Greeting>, operator: Arc<Operator>) -> Result<Action, Trouble> {
    let namespace = greeting.namespace().ok_or(Trouble::Bare)?;
    let greetings: Api<Greeting> = Api::namespaced(operator.client.clone(), &namespace);
    let done = finalizer(&greetings, FINALIZER, greeting, |event| async {
        match event {
            Finalizer::Apply(greeting) => greet(&greetings, &greeting, &operator).await,
            Finalizer::Cleanup(greeting) => part(&greeting, &operator).await,
        }
    });
    Ok(done.await.map_err(Box::new)?)
}

/// Creates the ConfigMap, reports it in an event, writes the status.
async fn greet(
    greetings: &Api<Greeting>,
    greeting: &Greeting,
    operator: &Operator,
) -> Result<Action, Trouble> {
    let (name, namespace) = (greeting.name_any(), greeting.namespace());
    let message = format!("hello {} ({})", greeting.spec.whom, greeting.spec.tone);
    let words = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![
                greeting.controller_owner_ref(&()).ok_or(Trouble::Bare)?,
            ]),
            ..ObjectMeta::default()
        },
        data: Some([("words".to_owned(), message.clone())].into()),
        ..ConfigMap::default()
    };
    let namespace = namespace.ok_or(Trouble::Bare)?;
    let config_maps: Api<ConfigMap> = Api::namespaced(operator.client.clone(), &namespace);
    let by = PatchParams::apply("greeter").force();
    config_maps.patch(&name, &by, &Patch::Apply(&words)).await?;
    let before = greeting
        .status
        .as_ref()
        .and_then(|status| status.said.as_ref());
    if before != Some(&message) {
        record_event(greeting, operator, "Greeted", &message).await?;
        let status = json!({ "status": { "said": message } });
        let patch = Patch::Merge(&status);
        greetings
            .patch_status(&name, &PatchParams::default(), &patch)
            .await?;
    }
    Ok(Action::await_change())
}

/// The farewell is in a ConfigMap without an owner, so that it outlives the greeting.
async fn part(greeting: &Greeting, operator: &Operator) -> Result<Action, Trouble> {
    let namespace = greeting.namespace().ok_or(Trouble::Bare)?;
    let config_maps: Api<ConfigMap> = Api::namespaced(operator.client.clone(), &namespace);
    let farewell = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "farewells" },
        "data": { greeting.spec.whom.clone(): "goodbye" },
    });
    let by = PatchParams::apply("greeter").force();
    let patch = Patch::Apply(&farewell);
    config_maps.patch("farewells", &by, &patch).await?;
    record_event(greeting, operator, "Parted", "goodbye").await?;
    Ok(Action::await_change())
}

async fn record_event(
    greeting: &Greeting,
    operator: &Operator,
    reason: &str,
    note: &str,
) -> Result<(), Trouble> {
    let event = Event {
        type_: EventType::Normal,
        reason: reason.to_owned(),
        note: Some(note.to_owned()),
        action: "Greeting".to_owned(),
        secondary: None,
    };
    let about = greeting.object_ref(&());
    Ok(operator.recorder.publish(&event, &about).await?)
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("read the kubeconfig");
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options);
    Client::try_from(config.await.expect("a configuration")).expect("a client")
}

/// Runs as long as the runtime.
async fn operate(client: Client) {
    let reporter = Reporter {
        controller: "greeter".to_owned(),
        instance: None,
    };
    let operator = Operator {
        recorder: Recorder::new(client.clone(), reporter),
        client: client.clone(),
    };
    let again = |_: Arc<Greeting>, trouble: &Trouble, _: Arc<Operator>| {
        eprintln!("greeter: {trouble}");
        Action::requeue(Duration::from_millis(200))
    };
    Controller::new(
        Api::<Greeting>::all(client.clone()),
        watcher::Config::default(),
    )
    .owns(Api::<ConfigMap>::all(client), watcher::Config::default())
    .run(reconcile, again, Arc::new(operator))
    .for_each(|_| async {})
    .await;
}

async fn establish(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = Greeting::crd();
    let name = definition.name_any();
    let by = PatchParams::apply("greeter");
    let patch = Patch::Apply(&definition);
    let applied = definitions.patch(&name, &by, &patch).await;
    applied.expect("apply the definition");
    let established = await_condition(definitions, &name, conditions::is_crd_established());
    tokio::time::timeout(Duration::from_secs(240), established)
        .await
        .expect("established")
        .expect("watch the definition");
}

/// The operator receives changes of the object and of its dependents, and its deletion; and the writes of the operator
/// are stored.
#[test]
fn an_operator_with_a_derived_kind() {
    let instance = Instance::start(&[]);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let client = runtime.block_on(client(&instance.data().join("kubeconfig")));
    runtime.block_on(establish(&client));
    runtime.spawn(operate(client.clone()));
    let kubectl = instance.kubectl();
    let expect_message = |name: &str, text: &str| {
        wait_for(text, 60, || {
            let greeting = kubectl.json(&["get", "hi", name]);
            let words = kubectl.run(&["get", "cm", name, "-o", "jsonpath={.data.words}"]);
            let fine = greeting["status"]["said"] == text && words.stdout == text;
            if fine {
                Ok(())
            } else {
                Err(Box::new((greeting, words)))
            }
        });
    };

    let greetings: Api<Greeting> = Api::default_namespaced(client);
    let make = |name: &str, whom: &str| {
        let (whom, tone) = (whom.to_owned(), plain());
        Greeting::new(name, GreetingSpec { whom, tone })
    };
    runtime.block_on(async {
        let by = PostParams::default();
        let refused = greetings.create(&by, &make("none", "nobody")).await;
        let refused = refused.expect_err("the rule refuses it").to_string();
        assert!(
            refused.contains("failed rule: self.spec.whom != 'nobody'"),
            "{refused}"
        );
        greetings
            .create(&by, &make("one", "world"))
            .await
            .expect("create");
    });
    expect_message("one", "hello world (plain)");
    let row = kubectl.ok(&["get", "hi", "--no-headers"]);
    assert_eq!(
        row.split_whitespace().take(2).collect::<Vec<_>>(),
        ["one", "world"]
    );

    kubectl.ok(&[
        "patch",
        "hi",
        "one",
        "--type=merge",
        "-p",
        "{\"spec\":{\"tone\":\"warm\"}}",
    ]);
    expect_message("one", "hello world (warm)");
    kubectl.ok(&["delete", "configmap", "one"]);
    expect_message("one", "hello world (warm)");
    // The crate counts repeated events, and keeps the message of the first.
    let events = kubectl.ok(&["events", "--for=greeting/one", "--no-headers"]);
    let once = events.lines().count() == 1 && events.contains("(x");
    assert!(once && events.contains("hello world (plain)"), "{events}");

    runtime.block_on(async {
        let one = DeleteParams::default();
        greetings.delete("one", &one).await.expect("delete");
    });
    wait_for("nothing to be left but the farewell", 60, || {
        let left = kubectl.ok(&["get", "greetings,configmaps", "-o", "name"]);
        let names: Vec<&str> = left.lines().collect();
        if names == ["configmap/farewells", "configmap/kube-root-ca.crt"] {
            return Ok(());
        }
        Err(left)
    });
    let farewell = kubectl.json(&["get", "configmap", "farewells"]);
    assert_eq!(farewell["data"]["world"], "goodbye");
    let listed = runtime.block_on(greetings.list(&ListParams::default()));
    assert!(listed.expect("list").items.is_empty());
}
