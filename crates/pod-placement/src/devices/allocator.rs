//! The search for devices: all requests of a pod at once, first alternatives first, in a bounded number of steps.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationResult, DeviceRequestAllocationResult,
};
use thiserror::Error;

use super::pools::{AvailableDevice, DeviceId, DeviceNodes};
use super::wishes::{ClaimRequests, Count, RequestAlternative, RequestRefusal};

/// Maximum number of devices that are tried for one pod and node: an unfavourable combination of claims and devices
/// must not delay other pods.
const TRIES_MAX: usize = 20_000;
/// Maximum number of devices of a claim; a limit of the API.
const RESULTS_MAX: usize = 32;

/// The reason why the devices of a node cannot be allocated.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum AllocationRefusal {
    #[error("cannot allocate all claims")]
    TooFew,
    /// The search was stopped after its maximum number of steps.
    #[error("cannot allocate all claims: no answer after {TRIES_MAX} devices were tried")]
    TooManyTries,
    #[error(transparent)]
    Request(#[from] RequestRefusal),
}

/// For each alternative of a request, whether each device matches the alternative.
type Alternatives = Vec<Vec<Result<bool, RequestRefusal>>>;

/// The devices that drivers offer, and the requests that each device matches.
#[derive(Default)]
pub(super) struct DeviceOffer {
    devices: Vec<AvailableDevice>,
    allocated: BTreeSet<DeviceId>,
    /// The alternatives of each request of each claim.
    matches: Vec<Vec<Alternatives>>,
}

impl DeviceOffer {
    /// Checks every device once for each alternative.
    pub fn of(
        devices: Vec<AvailableDevice>,
        allocated: BTreeSet<DeviceId>,
        wishes: &[ClaimRequests],
    ) -> Self {
        let of_demand = |demand: &RequestAlternative| {
            devices.iter().map(|device| demand.takes(device)).collect()
        };
        let of_request =
            |request: &Vec<RequestAlternative>| request.iter().map(of_demand).collect();
        let of_wish = |wish: &ClaimRequests| wish.requests.iter().map(of_request).collect();
        Self {
            matches: wishes.iter().map(of_wish).collect(),
            devices,
            allocated,
        }
    }
}

/// A device that was chosen for an alternative.
#[derive(Clone, Copy)]
struct Pick<'s> {
    wish: usize,
    demand: &'s RequestAlternative,
    device: &'s AvailableDevice,
}

struct Search<'s> {
    wishes: &'s [ClaimRequests],
    offer: &'s DeviceOffer,
    node: &'s Node,
    picks: Vec<Pick<'s>>,
    tries: usize,
}

/// Devices on a node for each claim, in their order.
pub(super) fn allocate(
    wishes: &[ClaimRequests],
    offer: &DeviceOffer,
    node: &Node,
) -> Result<Vec<AllocationResult>, AllocationRefusal> {
    let mut search = Search {
        wishes,
        offer,
        node,
        picks: Vec::new(),
        tries: 0,
    };
    if !search.fulfil(0, 0)? {
        return Err(AllocationRefusal::TooFew);
    }
    let picks = search.picks;
    let wishes = wishes.iter().enumerate();
    Ok(wishes
        .map(|(index, wish)| {
            let picks_of_wish = picks.iter().filter(|pick| pick.wish == index);
            result(wish, &picks_of_wish.copied().collect::<Vec<_>>())
        })
        .collect())
}

impl<'s> Search<'s> {
    /// Whether the request and all requests after it can be fulfilled.
    fn fulfil(&mut self, wish: usize, request: usize) -> Result<bool, AllocationRefusal> {
        let Some(claim_requests) = self.wishes.get(wish) else {
            return Ok(true);
        };
        let Some(alternatives) = claim_requests.requests.get(request) else {
            return self.fulfil(wish + 1, 0);
        };
        for (alternative, demand) in alternatives.iter().enumerate() {
            let candidates = self.candidates(wish, request, alternative)?;
            let at = (wish, request);
            let is_fulfilled = match demand.count {
                Count::Exactly(count) => self.choose(at, demand, &candidates, count)?,
                Count::All => self.pick_all(at, demand, &candidates)?,
            };
            if is_fulfilled {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The devices on the node that the alternative may use.
    fn candidates(
        &self,
        wish: usize,
        request: usize,
        alternative: usize,
    ) -> Result<Vec<&'s AvailableDevice>, RequestRefusal> {
        let matches = self.offer.matches.get(wish);
        let matches = matches.and_then(|matches| matches.get(request)?.get(alternative));
        let all = self.offer.devices.iter().zip(matches.into_iter().flatten());
        let here = all.filter(|(device, _)| device.is_on(self.node));
        let mut candidates = Vec::new();
        for (device, matches) in here {
            match matches {
                Ok(true) => candidates.push(device),
                Ok(false) => {}
                Err(refusal) => return Err(refusal.clone()),
            }
        }
        Ok(candidates)
    }

    /// Chooses that number of candidates, in every combination until the later requests can be fulfilled too.
    fn choose(
        &mut self,
        at: (usize, usize),
        demand: &'s RequestAlternative,
        candidates: &[&'s AvailableDevice],
        count: usize,
    ) -> Result<bool, AllocationRefusal> {
        if count == 0 {
            return self.fulfil(at.0, at.1 + 1);
        }
        for (index, device) in candidates.iter().enumerate() {
            if candidates.len() - index < count {
                return Ok(false);
            }
            self.count()?;
            if !device.pool_is_whole || !self.fits(at.0, demand, device) {
                continue;
            }
            self.pick(at.0, demand, device);
            let rest = candidates.get(index + 1..).unwrap_or_default();
            if self.choose(at, demand, rest, count - 1)? {
                return Ok(true);
            }
            self.picks.pop();
        }
        Ok(false)
    }

    /// Chooses all candidates, or no candidate.
    fn pick_all(
        &mut self,
        at: (usize, usize),
        demand: &'s RequestAlternative,
        candidates: &[&'s AvailableDevice],
    ) -> Result<bool, AllocationRefusal> {
        let before = self.picks.len();
        for device in candidates {
            self.count()?;
            // A pool is incomplete while its driver rewrites it.
            if !device.pool_is_whole || !self.fits(at.0, demand, device) {
                self.picks.truncate(before);
                return Ok(false);
            }
            self.pick(at.0, demand, device);
        }
        let is_fulfilled = !candidates.is_empty() && self.fulfil(at.0, at.1 + 1)?;
        if !is_fulfilled {
            self.picks.truncate(before);
        }
        Ok(is_fulfilled)
    }

    fn count(&mut self) -> Result<(), AllocationRefusal> {
        self.tries += 1;
        if self.tries > TRIES_MAX {
            cov_mark::hit!(findings_c49);
            return Err(AllocationRefusal::TooManyTries);
        }
        Ok(())
    }

    fn pick(&mut self, wish: usize, demand: &'s RequestAlternative, device: &'s AvailableDevice) {
        self.picks.push(Pick {
            wish,
            demand,
            device,
        });
    }

    /// Whether a device is free and fulfils the constraints with the claim's other devices.
    fn fits(&self, wish: usize, demand: &RequestAlternative, device: &AvailableDevice) -> bool {
        let picks_of_wish = || self.picks.iter().filter(|pick| pick.wish == wish);
        if picks_of_wish().count() >= RESULTS_MAX {
            return false;
        }
        let has_it = |pick: &&Pick<'_>| pick.device.id == device.id && !pick.demand.admin;
        let is_free = !self.offer.allocated.contains(&device.id)
            && !self.picks.iter().any(|pick| has_it(&pick));
        if !demand.admin && !is_free {
            return false;
        }
        let constraints = self
            .wishes
            .get(wish)
            .map(|wish| wish.constraints.as_slice());
        let mut constraints = constraints.unwrap_or_default().iter();
        constraints.all(|constraint| {
            if !constraint.concerns(&demand.request) {
                return true;
            }
            let Some(value) = device.attribute(&constraint.attribute) else {
                return false;
            };
            let mut others =
                picks_of_wish().filter(|pick| constraint.concerns(&pick.demand.request));
            others.all(|pick| {
                let same = pick.device.attribute(&constraint.attribute) == Some(value);
                same != constraint.distinct
            })
        })
    }
}

/// The allocation result of a claim.
fn result(wish: &ClaimRequests, picks: &[Pick<'_>]) -> AllocationResult {
    let results = picks.iter().map(|pick| {
        let DeviceId(driver, pool, device) = pick.device.id.clone();
        let tolerations = &pick.demand.tolerations;
        DeviceRequestAllocationResult {
            request: pick.demand.request.clone(),
            driver,
            pool,
            device,
            admin_access: pick.demand.admin.then_some(true),
            tolerations: Some(tolerations.clone()).filter(|all| !all.is_empty()),
            ..DeviceRequestAllocationResult::default()
        }
    });
    let mut names = BTreeSet::new();
    let demands = picks.iter().map(|pick| pick.demand);
    let demands = demands.filter(|demand| names.insert(demand.request.as_str()));
    // The class's configuration comes first, because the claim's configuration comes later and has priority.
    let of_classes = demands.flat_map(|demand| demand.config.iter().cloned());
    let config: Vec<_> = of_classes.chain(wish.config.iter().cloned()).collect();
    AllocationResult {
        devices: Some(DeviceAllocationResult {
            results: Some(results.collect()),
            config: Some(config).filter(|all| !all.is_empty()),
        }),
        node_selector: nodes(picks),
        ..AllocationResult::default()
    }
}

/// The nodes that can reach all the devices; `None` if all nodes can.
fn nodes(picks: &[Pick<'_>]) -> Option<NodeSelector> {
    let mut term = NodeSelectorTerm::default();
    for pick in picks {
        let (fields, labels) = match &pick.device.nodes {
            DeviceNodes::Everywhere => continue,
            DeviceNodes::On(name) => {
                let by_name = NodeSelectorRequirement {
                    key: "metadata.name".to_owned(),
                    operator: "In".to_owned(),
                    values: Some(vec![name.clone()]),
                };
                (vec![by_name], Vec::new())
            }
            DeviceNodes::OnNodes(selector) => {
                let first = selector.node_selector_terms.first().cloned();
                let first = first.unwrap_or_default();
                (
                    first.match_fields.unwrap_or_default(),
                    first.match_expressions.unwrap_or_default(),
                )
            }
        };
        for (more, list) in [
            (fields, &mut term.match_fields),
            (labels, &mut term.match_expressions),
        ] {
            for requirement in more {
                let list = list.get_or_insert_default();
                if !list.contains(&requirement) {
                    list.push(requirement);
                }
            }
        }
    }
    let empty = term == NodeSelectorTerm::default();
    (!empty).then(|| NodeSelector {
        node_selector_terms: vec![term],
    })
}
