//! The requests of a claim, with the selectors and configuration of their classes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use custom_resources::DeviceSelector;
use k8s_openapi::api::resource::v1::{
    CapacityRequirements, DeviceAllocationConfiguration, DeviceClass, DeviceRequest,
    DeviceSelector as Selector, DeviceTaint, DeviceToleration, ResourceClaim,
};
use object_model::Quantity;
use resource_kinds::MetadataIdentity;
use thiserror::Error;

use super::DeviceRefusal;
use super::pools::AvailableDevice;

/// The number of devices of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Exactly(usize),
    /// All matching devices on the node, and at least one device.
    All,
}

/// One alternative to fulfil a request.
#[derive(Clone, Debug)]
pub(super) struct RequestAlternative {
    /// `REQUEST`, or `REQUEST/ALTERNATIVE` of a request with `firstAvailable`.
    pub request: String,
    selectors: Vec<DeviceSelector>,
    pub count: Count,
    pub admin: bool,
    pub tolerations: Vec<DeviceToleration>,
    capacity: BTreeMap<String, Quantity>,
    /// The class's configuration for drivers.
    pub config: Vec<DeviceAllocationConfiguration>,
}

/// A constraint over the devices of several requests: an attribute with equal or with distinct values.
#[derive(Clone, Debug)]
pub(super) struct Constraint {
    requests: BTreeSet<String>,
    pub attribute: String,
    /// Whether the values must be distinct, instead of equal.
    pub distinct: bool,
}

/// The device requests of a ResourceClaim.
#[derive(Clone, Debug)]
pub(super) struct ClaimRequests {
    /// Name of the ResourceClaim.
    pub claim: String,
    /// For each request its alternatives, the preferred alternative first.
    pub requests: Vec<Vec<RequestAlternative>>,
    pub constraints: Vec<Constraint>,
    /// The claim's configuration for drivers.
    pub config: Vec<DeviceAllocationConfiguration>,
}

/// DeviceClasses by name.
pub(super) type Classes = BTreeMap<String, Arc<DeviceClass>>;

impl Constraint {
    /// Whether the constraint applies to devices of a request.
    pub fn concerns(&self, request: &str) -> bool {
        self.requests.is_empty() || names(&self.requests, request)
    }
}

/// Whether a list of names contains a request, or the parent of a subrequest.
fn names(requests: &BTreeSet<String>, request: &str) -> bool {
    let whole = request.split('/').next().unwrap_or_default();
    requests.contains(request) || requests.contains(whole)
}

/// The reason why a request cannot be fulfilled on any node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("request {request}: {cause}")]
pub(crate) struct RequestRefusal {
    request: String,
    cause: RequestFault,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum RequestFault {
    #[error("device class {0} does not exist")]
    NoClass(String),
    #[error("unsupported count mode {0}")]
    CountMode(String),
    #[error("CEL compile error: {0}")]
    Compilation(String),
    #[error("CEL runtime error: {0}")]
    Evaluation(String),
}

/// Parses the requests of a claim. Fails if the claim cannot be fulfilled on any node.
pub(super) fn wish(
    claim: &ResourceClaim,
    classes: &Classes,
) -> Result<ClaimRequests, DeviceRefusal> {
    let name = claim.metadata.object_name()?.to_owned();
    let devices = claim.spec.devices.clone().unwrap_or_default();
    let requests = devices.requests.unwrap_or_default();
    let requests = requests.iter().map(|request| demands(request, classes));
    let requests = requests
        .collect::<Result<_, RequestRefusal>>()
        .map_err(|refusal| DeviceRefusal::Request {
            claim: name.clone(),
            refusal: refusal.into(),
        })?;
    let constraints = devices.constraints.unwrap_or_default().into_iter();
    let constraints = constraints.filter_map(|constraint| {
        let distinct = constraint.match_attribute.is_none();
        Some(Constraint {
            requests: constraint
                .requests
                .unwrap_or_default()
                .into_iter()
                .collect(),
            attribute: constraint
                .match_attribute
                .or(constraint.distinct_attribute)?,
            distinct,
        })
    });
    let config = devices.config.unwrap_or_default().into_iter();
    let config = config.map(|config| DeviceAllocationConfiguration {
        opaque: config.opaque,
        requests: config.requests,
        source: "FromClaim".to_owned(),
    });
    Ok(ClaimRequests {
        claim: name,
        requests,
        constraints: constraints.collect(),
        config: config.collect(),
    })
}

fn demands(
    request: &DeviceRequest,
    classes: &Classes,
) -> Result<Vec<RequestAlternative>, RequestRefusal> {
    if let Some(exactly) = &request.exactly {
        let demand = Parts {
            request: request.name.clone(),
            class: &exactly.device_class_name,
            selectors: exactly.selectors.as_deref(),
            mode: exactly.allocation_mode.as_deref(),
            count: exactly.count,
            tolerations: exactly.tolerations.as_deref(),
            capacity: exactly.capacity.as_ref(),
        };
        let mut demand = demand.read(classes)?;
        demand.admin = exactly.admin_access == Some(true);
        return Ok(vec![demand]);
    }
    let alternatives = request.first_available.as_deref().unwrap_or_default();
    let read = alternatives.iter().map(|one| {
        let demand = Parts {
            request: format!("{}/{}", request.name, one.name),
            class: &one.device_class_name,
            selectors: one.selectors.as_deref(),
            mode: one.allocation_mode.as_deref(),
            count: one.count,
            tolerations: one.tolerations.as_deref(),
            capacity: one.capacity.as_ref(),
        };
        demand.read(classes)
    });
    read.collect()
}

/// The common fields of requests and subrequests.
struct Parts<'r> {
    request: String,
    class: &'r str,
    selectors: Option<&'r [Selector]>,
    mode: Option<&'r str>,
    count: Option<i64>,
    tolerations: Option<&'r [DeviceToleration]>,
    capacity: Option<&'r CapacityRequirements>,
}

impl Parts<'_> {
    fn read(self, classes: &Classes) -> Result<RequestAlternative, RequestRefusal> {
        let refusal = |cause: RequestFault| RequestRefusal {
            request: self.request.clone(),
            cause,
        };
        let Some(class) = classes.get(self.class) else {
            return Err(refusal(RequestFault::NoClass(self.class.to_owned())));
        };
        let of_class = class.spec.selectors.as_deref().unwrap_or_default();
        let request_selectors = self.selectors.unwrap_or_default();
        let sources = of_class
            .iter()
            .chain(request_selectors)
            .filter_map(|one| one.cel.as_ref());
        let selectors = sources.map(|one| {
            DeviceSelector::compile(&one.expression)
                .map_err(|why| refusal(RequestFault::Compilation(why.to_string())))
        });
        let config = class.spec.config.iter().flatten();
        let config = config.map(|config| DeviceAllocationConfiguration {
            opaque: config.opaque.clone(),
            requests: Some(vec![self.request.clone()]),
            source: "FromClass".to_owned(),
        });
        let count = match self.mode {
            Some("All") => Count::All,
            None | Some("ExactCount") => {
                let count = self.count.unwrap_or(1);
                Count::Exactly(usize::try_from(count).unwrap_or(usize::MAX))
            }
            Some(other) => {
                return Err(refusal(RequestFault::CountMode(other.to_owned())));
            }
        };
        let amounts = self
            .capacity
            .and_then(|capacity| capacity.requests.as_ref());
        let amounts = amounts.into_iter().flatten();
        let capacity =
            amounts.filter_map(|(name, amount)| Some((name.clone(), amount.0.parse().ok()?)));
        Ok(RequestAlternative {
            selectors: selectors.collect::<Result<_, RequestRefusal>>()?,
            config: config.collect(),
            count,
            admin: false,
            tolerations: self.tolerations.unwrap_or_default().to_vec(),
            capacity: capacity.collect(),
            request: self.request,
        })
    }
}

impl RequestAlternative {
    /// Whether a device matches and may be allocated. Fails if an expression cannot be evaluated.
    pub fn takes(&self, offered: &AvailableDevice) -> Result<bool, RequestRefusal> {
        for selector in &self.selectors {
            let selected = selector.selects(&offered.id.0, &offered.json);
            let selected = selected.map_err(|why| RequestRefusal {
                request: self.request.clone(),
                cause: RequestFault::Evaluation(why.to_string()),
            })?;
            if !selected {
                return Ok(false);
            }
        }
        let taints = offered.device.taints.as_deref().unwrap_or_default();
        let keeps_away = |taint: &&DeviceTaint| {
            let strong = matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
            strong && !self.tolerations.iter().any(|one| tolerates(one, taint))
        };
        Ok(taints.iter().find(keeps_away).is_none() && self.is_large_enough(offered))
    }

    fn is_large_enough(&self, offered: &AvailableDevice) -> bool {
        let has = |name: &str| -> Option<Quantity> {
            let capacity = offered.device.capacity.as_ref()?;
            let unqualified = || {
                let (domain, id) = name.split_once('/')?;
                (domain == offered.id.0).then(|| capacity.get(id))?
            };
            capacity
                .get(name)
                .or_else(unqualified)?
                .value
                .0
                .parse()
                .ok()
        };
        let mut requested = self.capacity.iter();
        requested.all(|(name, amount)| has(name).is_some_and(|there| there >= *amount))
    }
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let matches = |pattern: &Option<String>, value: &str| {
        let pattern = pattern.as_deref().unwrap_or_default();
        pattern.is_empty() || pattern == value
    };
    let value = toleration.value.as_deref().unwrap_or_default();
    let same = value == taint.value.as_deref().unwrap_or_default();
    matches(&toleration.effect, &taint.effect)
        && matches(&toleration.key, &taint.key)
        && (toleration.operator.as_deref() == Some("Exists") || same)
}
