//! The order of the measurements.

use clap::error::{Error, ErrorKind};

use crate::arguments::Arguments;

/// The measurements.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Create,
    Get,
    /// Gets while other clients keep the server busy
    GetUnderLoad,
    /// All pods, at once in JSON and in protobuf, and in pages
    List,
    /// Replace a pod by a changed one
    Update,
    /// Merge patch
    Patch,
    /// Server-side apply
    Apply,
    Delete,
    /// Time from a write to its events in the watches
    Watch,
    /// The server's memory per pod
    Memory,
}

impl Measure {
    /// The measurements of a run that names none.
    const ALL: [Self; 9] = [
        Self::Create,
        Self::Get,
        Self::List,
        Self::Update,
        Self::Patch,
        Self::Apply,
        Self::Delete,
        Self::Watch,
        Self::Memory,
    ];
    /// Operations on existing pods, which do not delete the pods.
    const ON_PODS: [Operation; 8] = [
        Operation::Get,
        Operation::GetUnderLoad,
        Operation::List,
        Operation::ListProtobuf,
        Operation::ListPaged,
        Operation::Update,
        Operation::Patch,
        Operation::Apply,
    ];
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Get,
    GetUnderLoad,
    List,
    ListProtobuf,
    ListPaged,
    Update,
    Patch,
    Apply,
    Delete,
}

impl Operation {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::GetUnderLoad => "get under load",
            Self::List => "list",
            Self::ListProtobuf => "list in protobuf",
            Self::ListPaged => "list in pages",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Apply => "apply",
            Self::Delete => "delete",
        }
    }

    fn measure(self) -> Measure {
        match self {
            Self::Create => Measure::Create,
            Self::Get => Measure::Get,
            Self::GetUnderLoad => Measure::GetUnderLoad,
            Self::List | Self::ListProtobuf | Self::ListPaged => Measure::List,
            Self::Update => Measure::Update,
            Self::Patch => Measure::Patch,
            Self::Apply => Measure::Apply,
            Self::Delete => Measure::Delete,
        }
    }
}

/// A number of clients, which together send one request for each pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadStep {
    pub operation: Operation,
    pub clients: u32,
    /// Whether it was requested; otherwise it only prepares other operations.
    pub reported: bool,
}

/// The requested measurements.
#[derive(Debug, PartialEq, Eq)]
pub struct LoadPlan {
    pub steps: Vec<LoadStep>,
    pub watchers: Vec<u32>,
    pub watches_per_connection: u32,
    pub memory: bool,
}

/// Clients that create and delete pods when this is not measured.
const HANDS: u32 = 16;

/// Orders the requested measurements.
///
/// # Errors
/// A mistake in the command line.
pub fn plan(arguments: &Arguments) -> Result<LoadPlan, Error> {
    let pods = !arguments.config_maps && !arguments.custom_resources;
    let chosen = if arguments.only.is_empty() {
        let weighs = !arguments.server_pid.is_empty() && pods;
        let possible = |measure: &Measure| weighs || *measure != Measure::Memory;
        Measure::ALL.into_iter().filter(possible).collect()
    } else {
        arguments.only.clone()
    };
    let memory = chosen.contains(&Measure::Memory);
    if memory && arguments.server_pid.is_empty() {
        return Err(mistake("memory is that of a process: add --server-pid PID"));
    }
    if memory && !pods {
        return Err(mistake(
            "memory is measured for pods: leave out --config-maps and --custom-resources",
        ));
    }
    let most = arguments.clients.iter().copied().max().unwrap_or_default();
    if arguments.objects < most {
        return Err(mistake(&format!(
            "--objects {} is too few: each of {most} clients needs at least one",
            arguments.objects
        )));
    }
    let watches = chosen.contains(&Measure::Watch);
    let mut steps = steps(&chosen, &distinct(&arguments.clients), arguments.objects);
    if arguments.custom_resources {
        // Custom resources have no form in protobuf.
        steps.retain(|step| step.operation != Operation::ListProtobuf);
    }
    Ok(LoadPlan {
        steps,
        watches_per_connection: arguments.watches_per_connection,
        watchers: distinct(&arguments.watchers)
            .into_iter()
            .filter(|_| watches)
            .collect(),
        memory,
    })
}

fn steps(chosen: &[Measure], rounds: &[u32], objects: u32) -> Vec<LoadStep> {
    let is_requested = |operation: Operation| chosen.contains(&operation.measure());
    let hands = HANDS.min(objects);
    let mut steps = Vec::new();
    let mut there = false;
    for &clients in rounds {
        let mut then = |operation, clients, reported| {
            steps.push(LoadStep {
                operation,
                clients,
                reported,
            });
        };
        let later = Measure::ON_PODS
            .into_iter()
            .filter(|step| is_requested(*step));
        let needed = later.clone().count() > 0
            || is_requested(Operation::Delete)
            || chosen.contains(&Measure::Memory);
        if is_requested(Operation::Create) {
            if there {
                then(Operation::Delete, hands, false);
            }
            then(Operation::Create, clients, true);
            there = true;
        } else if needed && !there {
            then(Operation::Create, hands, false);
            there = true;
        }
        for operation in later {
            then(operation, clients, true);
        }
        if is_requested(Operation::Delete) {
            then(Operation::Delete, clients, true);
            there = false;
        }
    }
    steps
}

fn distinct(numbers: &[u32]) -> Vec<u32> {
    let mut distinct_numbers = Vec::new();
    for number in numbers {
        if !distinct_numbers.contains(number) {
            distinct_numbers.push(*number);
        }
    }
    distinct_numbers
}

fn mistake(text: &str) -> Error {
    Error::raw(ErrorKind::ValueValidation, format!("{text}\n"))
}
