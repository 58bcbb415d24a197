//! Runs the plan, and cleans up in any case.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use json_tree::Value;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::{Arguments, OutputFormat};
use crate::call::Call;
use crate::load::{Load, send_all};
use crate::memory::Memory;
use crate::objects::BenchObjects;
use crate::plan::{LoadPlan, LoadStep, Operation, plan};
use crate::processor::AFTER_THE_REPLY;
use crate::report::{PodMemory, Report, Row};
use crate::sets::{self, MeasureOptions, SetsFixture};
use crate::target::BenchNamespace;
use crate::watchers::{self, SETTLED};
use crate::{busy, heartbeats, nodes, output, processor};

/// Number of lists of each client.
const LISTS_PER_CLIENT: usize = 4;
/// Minimum number of lists of a single client.
const LISTS_MIN: usize = 20;
/// The number of nodes for sets, as in a medium cluster, so that the scheduler has a choice.
const NODES: u32 = 10;
/// Number of pods whose JSON size is measured.
const WEIGHED: usize = 100;

/// The requested work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Requests,
    Sets { nodes: u32 },
    Heartbeats { nodes: u32 },
}

impl Work {
    fn of(arguments: &Arguments) -> Self {
        match (arguments.sets.is_empty(), arguments.nodes) {
            (false, nodes) => Self::Sets {
                nodes: nodes.unwrap_or(NODES),
            },
            (true, Some(nodes)) => Self::Heartbeats { nodes },
            (true, None) => Self::Requests,
        }
    }
}

/// Measures, removes the created objects, and prints the report.
pub async fn run(arguments: Arguments) -> Result<()> {
    let plan = plan(&arguments)?;
    let work = Work::of(&arguments);
    let pids = &arguments.server_pid;
    Memory::of(pids).and(processor::time(pids))?;
    let target = BenchNamespace::prepare(&arguments.kubeconfig, arguments.subject()).await?;
    let mut report = Report::of(arguments.objects, arguments.subject());
    // The nodes must exist until the end, because they confirm the deletion of pods, also while the namespace is
    // removed.
    let mut stage = None;
    let mut idle = None;
    let measured = tokio::select! {
        measured = async {
            target.make_account().await?;
            match work {
                Work::Requests => measure(&target, &plan, &arguments, &mut report).await,
                Work::Sets { nodes } => {
                    let stage = stage.insert(SetsFixture::prepare(&target, nodes).await?);
                    measure_sets(&target, stage, &arguments, &mut report).await
                }
                Work::Heartbeats { nodes } => {
                    let idle = idle.insert(heartbeats::HeartbeatFixture::prepare(&target, nodes, pids).await?);
                    let span = Duration::from_secs(arguments.seconds.into());
                    report.idle_nodes = Some(idle.measure(span, pids).await?);
                    Ok(())
                }
            }
        } => measured,
        interrupted = interruption() => interrupted.and_then(|()| bail!("interrupted")),
    };
    // Results from before a failure or an interruption are printed.
    match arguments.output {
        OutputFormat::Text => output::show(&report.text()),
        OutputFormat::Json => output::show(&format!("{:#}\n", report.json())),
    }
    output::warn(&format!("removing the namespace {}", target.namespace));
    let mut removed = target.remove().await;
    if work != Work::Requests {
        removed = removed.and(nodes::remove_nodes(&target).await);
    }
    drop((stage, idle));
    measured.and(removed)?;
    match report.first_failure() {
        Some(failure) => bail!("not all requests succeeded; the first: {failure}"),
        None => Ok(()),
    }
}

async fn interruption() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("await SIGTERM")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("await Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}

async fn measure(
    target: &BenchNamespace,
    plan: &LoadPlan,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let names: Vec<String> = (0..arguments.objects)
        .map(|index| arguments.subject().name(index))
        .collect();
    let server = arguments.server_pid.as_slice();
    // The first pods are measured, because later pods reuse the memory of earlier pods.
    let mut weigh = plan.memory;
    for (index, step) in plan.steps.iter().enumerate() {
        let how = if step.reported { "" } else { " (not measured)" };
        let (what, count) = (step.operation.name(), step.clients);
        output::warn(&format!("{what}, clients: {count}{how}"));
        let clients = target.clients(count).await?;
        let before = weigh.then(|| Memory::of(server)).transpose()?;
        let processor_before = processor::time(server)?;
        let load = send(target, *step, &clients, &names, &format!("{index}")).await?;
        let mut processor = None;
        if step.reported && !server.is_empty() {
            tokio::time::sleep(AFTER_THE_REPLY).await;
            processor = Some(processor::time(server)?.saturating_sub(processor_before));
        }
        if let Some(before) = before {
            tokio::time::sleep(SETTLED).await;
            let after = Memory::of(server)?;
            report.pod_memory = Some(pod_memory(target, &names, before, after).await?);
            weigh = false;
        }
        match load.first_failure {
            Some(failure) if !step.reported => bail!("{what}: {failure}"),
            _ if step.reported => report.rows.push(Row::of(*step, load, processor)),
            _ => {}
        }
    }
    for &count in &plan.watchers {
        output::warn(&format!("watchers: {count}"));
        let measured = watchers::measure(target, count, plan.watches_per_connection, server);
        report.fan_outs.push(measured.await?);
    }
    Ok(())
}

async fn measure_sets(
    target: &BenchNamespace,
    stage: &SetsFixture,
    arguments: &Arguments,
    report: &mut Report,
) -> Result<()> {
    let options = MeasureOptions {
        server: arguments.server_pid.as_slice(),
        updates: !arguments.no_update,
    };
    for &policy in &arguments.policy {
        for &sets in &arguments.sets {
            let steps = sets::measure(target, stage, sets, policy, options).await?;
            report.sets.extend(steps);
        }
    }
    Ok(())
}

/// Sends one step's requests, which are built before the first is sent.
async fn send(
    target: &BenchNamespace,
    step: LoadStep,
    clients: &[Client],
    names: &[String],
    word: &str,
) -> Result<Load> {
    let objects = target.objects();
    let each = |call: &dyn Fn(&str) -> Call| names.iter().map(|name| call(name)).collect();
    let lists = LISTS_MIN.max(clients.len() * LISTS_PER_CLIENT);
    let calls: Vec<Call> = match step.operation {
        Operation::Create => each(&|name| objects.create(name)),
        Operation::Get => each(&|name| objects.get(name)),
        Operation::GetUnderLoad => {
            return busy::get_pods(target, step.clients, names).await;
        }
        Operation::List => vec![objects.list(); lists],
        Operation::ListProtobuf => vec![objects.list_in_protobuf(); lists],
        Operation::ListPaged => vec![objects.list_in_pages(); lists],
        Operation::Update => updates(target, &objects, names, word).await?,
        Operation::Patch => each(&|name| objects.patch(name, word)),
        Operation::Apply => each(&|name| objects.apply(name, word)),
        Operation::Delete => each(&|name| objects.delete(name)),
    };
    send_all(clients, calls).await
}

/// Updates of the listed objects with these names, because the namespace contains other objects, such as the root
/// certificates.
async fn updates(
    target: &BenchNamespace,
    objects: &BenchObjects,
    names: &[String],
    word: &str,
) -> Result<Vec<Call>> {
    let names: HashSet<&str> = names.iter().map(String::as_str).collect();
    let mut list = objects.list().json(&target.client).await?;
    let Value::Array(items) = list["items"].take() else {
        bail!("a list has no items");
    };
    items
        .into_iter()
        .filter(|item| {
            let name = item["metadata"]["name"].as_str();
            name.is_some_and(|name| names.contains(name))
        })
        .map(|item| objects.update(item, word))
        .collect()
}

/// The size of the recently created pods, in the server's memory and as JSON.
async fn pod_memory(
    target: &BenchNamespace,
    names: &[String],
    before: Memory,
    after: Memory,
) -> Result<PodMemory> {
    let pods = target.objects();
    let weighed = names.iter().take(WEIGHED);
    let mut json_bytes = 0;
    for name in weighed.clone() {
        json_bytes += pods.get(name).send(&target.client).await?.bytes;
    }
    let count = u32::try_from(names.len()).context("that many pods")?;
    Ok(PodMemory {
        json_bytes: json_bytes / weighed.count().max(1) as u64,
        bytes_per_pod: after.grown_per(before, count),
        resident_before: before.resident,
        resident_after: after.resident,
    })
}
