//! Whole StatefulSets on hollow nodes: the time from a write by the user until all pods have the desired state, and the
//! processor time of the server.

mod hollow;
mod pod;
mod views;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use json_tree::{Value, json};
use tokio::task::JoinSet;

use crate::call::Call;
use crate::follow::follow;
use crate::load::send_all;
use crate::memory::Memory;
use crate::nodes::{NODE_LABEL, TAINT};
use crate::processor;
use crate::target::BenchNamespace;
use hollow::Hollow;
use views::Views;

/// Clients that write the sets.
const HANDS: u32 = 8;
/// Maximum time of a step, and the time that each pod adds.
const PATIENCE: Duration = Duration::from_secs(900);
const PATIENCE_PER_POD: Duration = Duration::from_millis(30);

/// A number of sets, and the pods of each: `100x3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sets {
    pub number: u32,
    pub replicas: u32,
}

impl Sets {
    fn pods(self) -> usize {
        self.number as usize * self.replicas as usize
    }

    fn names(self) -> impl Iterator<Item = String> {
        (0..self.number).map(|number| format!("set-{number}"))
    }
}

impl fmt::Display for Sets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.number, self.replicas)
    }
}

impl FromStr for Sets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| part.parse::<u32>().ok().filter(|number| *number > 0);
        let parts = text.split_once('x');
        let parsed = parts.and_then(|(sets, pods)| Some((parse(sets)?, parse(pods)?)));
        let sets = parsed.map(|(number, replicas)| Self { number, replicas });
        // More pods would need more addresses of Services and nodes than this program has.
        sets.filter(|sets| u64::from(sets.number) * u64::from(sets.replicas) <= 200_000)
            .ok_or_else(|| "expected SETSxPODS, such as 100x3, of at most 200000 pods".to_owned())
    }
}

/// The order in which the pods of a set are created.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[value(rename_all = "PascalCase")]
pub enum Policy {
    OrderedReady,
    Parallel,
}

impl Policy {
    pub fn name(self) -> &'static str {
        match self {
            Self::OrderedReady => "OrderedReady",
            Self::Parallel => "Parallel",
        }
    }
}

/// A step in the life of the sets.
#[derive(Debug)]
pub struct SetsStep {
    pub sets: Sets,
    pub policy: Policy,
    pub name: &'static str,
    pub elapsed: Duration,
    /// Processor time of the server.
    pub processor: Option<Duration>,
    /// Resident memory of the server after the step, in bytes.
    pub resident: Option<u64>,
    /// Pods that were started.
    pub started: usize,
}

impl SetsStep {
    /// Processor time of the server for each started pod.
    pub fn processor_per_pod(&self) -> Option<Duration> {
        let pods = u32::try_from(self.started).ok().filter(|pods| *pods > 0)?;
        Some(self.processor? / pods)
    }
}

/// The nodes and views of the measurements.
pub struct SetsFixture {
    views: Arc<Views>,
    _hollow: Hollow,
    _tasks: JoinSet<()>,
}

impl SetsFixture {
    /// Creates this number of nodes. Their kubelets run as long as this value exists.
    pub async fn prepare(target: &BenchNamespace, nodes: u32) -> Result<Self> {
        let views = Arc::new(Views::default());
        let hollow = Hollow::start(target, nodes, &views).await?;
        let path = format!("/apis/apps/v1/namespaces/{}/statefulsets", target.namespace);
        let (client, shared_views) = (target.clients(1).await?.remove(0), views.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let see = |change| shared_views.see_set(change);
            if let Err(error) = follow(&client, &path, see).await {
                shared_views.fail(&error);
            }
        });
        Ok(Self {
            views,
            _hollow: hollow,
            _tasks: tasks,
        })
    }
}

/// Creates sets, updates all pods, scales to 0 and deletes.
pub async fn measure(
    target: &BenchNamespace,
    stage: &SetsFixture,
    sets: Sets,
    policy: Policy,
    options: MeasureOptions<'_>,
) -> Result<Vec<SetsStep>> {
    let life = Life {
        target,
        views: &stage.views,
        sets,
        policy,
        server: options.server,
    };
    life.live(options.updates).await
}

/// The options of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct MeasureOptions<'a> {
    /// The processes of the server.
    pub server: &'a [u32],
    /// Whether all pods are replaced.
    pub updates: bool,
}

struct Life<'t> {
    target: &'t BenchNamespace,
    views: &'t Views,
    sets: Sets,
    policy: Policy,
    server: &'t [u32],
}

impl Life<'_> {
    async fn live(&self, updates: bool) -> Result<Vec<SetsStep>> {
        let (sets, all) = (self.sets, self.sets.pods());
        let each = |call: &dyn Fn(&str) -> Call| -> Vec<Call> {
            sets.names().map(|name| call(&name)).collect()
        };
        self.send(each(&|name| self.service(name))).await?;
        let create =
            each(&|name| Call::post(self.path("apps/v1", "statefulsets"), &self.set(name)));
        let containers = json!([{"name": "main", "image": image(2)}]);
        let newer = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        let update = each(&|name| Call::merge_patch(self.one(name), &newer));
        let none = json!({"spec": {"replicas": 0}});
        let scale = each(&|name| Call::merge_patch(self.one(name), &none));
        let delete = each(&|name| Call::delete(self.one(name)));
        let path = self.path("v1", "services");
        let services = each(&|name| Call::delete(format!("{path}/{name}")));
        let (first, second) = (image(1), image(2));
        let mut steps = Vec::new();
        let created = self.step("create", create, all, |views| views.ready(&first) == all);
        steps.push(created.await?);
        if updates {
            let updated = self.step("update", update, all, |views| views.ready(&second) == all);
            steps.push(updated.await?);
        }
        let scaled = self.step("scale to 0", scale, 0, |views| views.pods() == 0);
        steps.push(scaled.await?);
        let deleted = self.step("delete", delete, 0, |views| views.sets() == 0);
        steps.push(deleted.await?);
        // The next measurement uses equal names.
        self.send(services).await?;
        Ok(steps)
    }

    /// Sends the writes and waits until the view has the desired state.
    async fn step(
        &self,
        name: &'static str,
        calls: Vec<Call>,
        started: usize,
        is_reached: impl Fn(&Views) -> bool,
    ) -> Result<SetsStep> {
        crate::output::warn(&format!("{} {}: {name}", self.sets, self.policy.name()));
        let before = processor::time(self.server)?;
        let begin = Instant::now();
        self.send(calls).await?;
        let reached = self.views.wait_for(|| is_reached(self.views));
        let pods = u32::try_from(self.sets.pods())?;
        let patience = PATIENCE + PATIENCE_PER_POD * pods;
        match tokio::time::timeout(patience, reached).await {
            Ok(reached) => reached?,
            Err(_) => bail!("{name}: {} after {patience:?}", self.views.summary()),
        }
        let elapsed = begin.elapsed();
        let used = processor::time(self.server)?.saturating_sub(before);
        let resident = Memory::of(self.server)?.resident;
        let has_processes = !self.server.is_empty();
        Ok(SetsStep {
            sets: self.sets,
            policy: self.policy,
            name,
            elapsed,
            processor: has_processes.then_some(used),
            resident: has_processes.then_some(resident),
            started,
        })
    }

    async fn send(&self, calls: Vec<Call>) -> Result<()> {
        let clients = self.target.clients(HANDS.min(self.sets.number)).await?;
        let load = send_all(&clients, calls).await?;
        match load.first_failure {
            Some(failure) => bail!("write the sets: {failure}"),
            None => Ok(()),
        }
    }

    fn path(&self, version: &str, resource: &str) -> String {
        let root = if version == "v1" { "api" } else { "apis" };
        let namespace = &self.target.namespace;
        format!("/{root}/{version}/namespaces/{namespace}/{resource}")
    }

    fn one(&self, name: &str) -> String {
        format!("{}/{name}", self.path("apps/v1", "statefulsets"))
    }

    fn service(&self, name: &str) -> Call {
        let service = json!({
            "metadata": {"name": name},
            "spec": {
                "clusterIP": "None",
                "selector": {"app": name},
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            },
        });
        Call::post(self.path("v1", "services"), &service)
    }

    fn set(&self, name: &str) -> Value {
        json!({
            "metadata": {"name": name},
            "spec": {
                "replicas": self.sets.replicas,
                "serviceName": name,
                "podManagementPolicy": self.policy.name(),
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "nodeSelector": {NODE_LABEL: self.target.namespace},
                        "tolerations": [{"key": TAINT, "operator": "Exists"}],
                        "automountServiceAccountToken": false,
                        "serviceAccountName": crate::objects::ACCOUNT,
                        "containers": [{
                            "name": "main",
                            "image": image(1),
                            // Each set has a different template.
                            "env": [{"name": "SET", "value": name}],
                            "ports": [{"name": "http", "containerPort": 8080}],
                        }],
                    },
                },
            },
        })
    }
}

fn image(version: u32) -> String {
    format!("registry.invalid/bench:{version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_as_a_product() {
        let sets = |number, replicas| Ok(Sets { number, replicas });
        assert_eq!("100x3".parse(), sets(100, 3));
        assert_eq!("1x200".parse::<Sets>().unwrap().to_string(), "1x200");
        assert_eq!("100x1000".parse(), sets(100, 1000));
        for wrong in ["", "100", "x3", "0x3", "3x0", "1000x1000", "1x2x3", "-1x3"] {
            assert!(wrong.parse::<Sets>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn processor_time_is_shared_by_the_started_pods() {
        let step = |processor, started| SetsStep {
            sets: "2x2".parse().unwrap(),
            policy: Policy::Parallel,
            name: "create",
            elapsed: Duration::from_secs(1),
            processor,
            resident: None,
            started,
        };
        let second = Some(Duration::from_secs(1));
        let quarter = Some(Duration::from_millis(250));
        assert_eq!(step(second, 4).processor_per_pod(), quarter);
        assert_eq!(step(second, 0).processor_per_pod(), None);
        assert_eq!(step(None, 4).processor_per_pod(), None);
    }
}
