use std::sync::{Arc, LazyLock};
use std::time::Instant;

use controller_planners::leader_election::ClockReading;
use k8s_openapi::api::core::v1::ConfigMap;
use kube_api_client::ListParams;
use kube_api_server::{ApiServer, Config, UserInfo};
use mvcc_store::embedded::EmbeddedStore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::*;

/// The time since the first reading.
fn reading() -> ClockReading {
    static FIRST: LazyLock<Instant> = LazyLock::new(|| Instant::now() - Duration::from_secs(60));
    SignedDuration::try_from(FIRST.elapsed()).unwrap()
}

async fn api() -> Client {
    let config = Config::in_process(EmbeddedStore::in_memory());
    let api: Arc<ApiServer> = ApiServer::new(config).await.unwrap();
    let user = UserInfo::new("system:apiserver", ["system:masters"]);
    Client::new(api.local(user), "default")
}

/// The events of one candidate, with the term of a lead.
enum LeadEvent {
    Leads(Arc<Term>),
    Ended,
    Aborted,
}

struct Parts(UnboundedSender<LeadEvent>);

impl Lead for Parts {
    async fn end(self) {
        self.0.send(LeadEvent::Ended).ok();
    }

    async fn abort(self) {
        self.0.send(LeadEvent::Aborted).ok();
    }
}

struct Server {
    stop: CancellationToken,
    events: UnboundedReceiver<LeadEvent>,
    task: JoinHandle<()>,
}

impl Server {
    fn start(client: &Client, identity: &str) -> Self {
        let (sender, receiver) = unbounded_channel();
        let stop = CancellationToken::new();
        let identity = HolderIdentity::new(identity).unwrap();
        let election = Election::new(client.clone(), identity, reading);
        let task = tokio::spawn(election.run(stop.clone(), move |term| {
            sender.send(LeadEvent::Leads(Arc::clone(term))).ok();
            Parts(sender.clone())
        }));
        Self {
            stop,
            events: receiver,
            task,
        }
    }

    async fn leads(&mut self) -> Arc<Term> {
        match self.events.recv().await {
            Some(LeadEvent::Leads(term)) => term,
            _ => panic!("it does not lead"),
        }
    }
}

async fn lease(client: &Client) -> LeaseSpec {
    let leases: Api<Lease> = Api::namespaced(client.clone(), KUBE_SYSTEM);
    leases.get(LEASE).await.unwrap().spec.unwrap()
}

async fn writes(client: &Client, name: &str) -> bool {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let mut map = ConfigMap::default();
    map.metadata.name = Some(name.to_owned());
    maps.create(&PostParams::default(), &map).await.is_ok()
}

#[tokio::test]
async fn a_server_that_stops_hands_over() {
    let client = api().await;
    let mut one = Server::start(&client, "one");
    let term = one.leads().await;
    assert!(writes(&during(&term, client.clone()), "a").await);
    let mut two = Server::start(&client, "two");
    let spec = lease(&client).await;
    assert_eq!(spec.holder_identity.as_deref(), Some("one"));
    assert_eq!(
        (spec.lease_duration_seconds, spec.lease_transitions),
        (Some(14), Some(0))
    );
    one.stop.cancel();
    one.task.await.unwrap();
    assert!(matches!(one.events.recv().await, Some(LeadEvent::Ended)));
    assert!(
        !writes(&during(&term, client.clone()), "b").await,
        "after its lead"
    );
    two.leads().await;
    let spec = lease(&client).await;
    assert_eq!(spec.holder_identity.as_deref(), Some("two"));
    assert_eq!(spec.lease_transitions, Some(1));
    assert!(spec.acquire_time.is_some() && spec.renew_time.is_some());
    two.stop.cancel();
    two.task.await.unwrap();
    assert_eq!(lease(&client).await.holder_identity.as_deref(), Some(""));
}

#[tokio::test]
async fn a_leader_that_lost_its_lease_stops_and_writes_nothing() {
    let client = api().await;
    let mut one = Server::start(&client, "one");
    let term = one.leads().await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), KUBE_SYSTEM);
    let lease_of_other = loop {
        let mut lease = leases.get(LEASE).await.unwrap();
        let spec = lease.spec.as_mut().unwrap();
        spec.holder_identity = Some("two".to_owned());
        spec.lease_duration_seconds = Some(3600);
        let replaced = leases.replace(LEASE, &PostParams::default(), &lease).await;
        // The Lease may have been renewed in between.
        if let Ok(lease) = replaced {
            break lease;
        }
    };
    assert!(matches!(one.events.recv().await, Some(LeadEvent::Aborted)));
    assert!(!writes(&during(&term, client.clone()), "a").await);
    assert_eq!(leases.get(LEASE).await.unwrap(), lease_of_other, "it waits");
    // An administrator removes the Lease of the absent server.
    leases.delete(LEASE, &Default::default()).await.unwrap();
    let again = one.leads().await;
    assert!(writes(&during(&again, client.clone()), "b").await);
    assert!(
        !writes(&during(&term, client.clone()), "c").await,
        "the first term is over"
    );
    one.stop.cancel();
    one.task.await.unwrap();
}

#[tokio::test]
async fn a_term_ends_by_its_clock() {
    let client = api().await;
    let term = Term::new(reading() - SignedDuration::from_secs(1), reading);
    let gated = during(&term, client.clone());
    // No timer has fired, as after a suspension of the process.
    assert!(!writes(&gated, "a").await);
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let listed = maps.list(&ListParams::default()).await.unwrap();
    let names = listed
        .items
        .iter()
        .filter_map(|map| map.metadata.name.as_deref());
    assert!(!names.collect::<Vec<_>>().contains(&"a"));
    term.prolong(reading() + SignedDuration::from_secs(60));
    assert!(writes(&gated, "a").await);
}
