use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};

use super::*;

/// The writes of the deadline by the machine, and the requests of its agent.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Record>>);

#[derive(Default)]
struct Record {
    disk_fails: bool,
    deadlines: Vec<Duration>,
    requests: Vec<Method>,
}

impl Recorder {
    fn with<T>(&self, access: impl FnOnce(&mut Record) -> T) -> T {
        access(&mut self.0.lock().unwrap())
    }

    /// A server with the node's lease.
    fn client(&self) -> Client {
        let recorder = self.clone();
        let respond = move |request: Request<kube_api_client::Body>| {
            recorder.with(|record| record.requests.push(request.method().clone()));
            let lease = json!({
                "metadata": {"name": "n1", "resourceVersion": "1"},
                "spec": {"holderIdentity": "n1", "leaseTransitions": 0},
            });
            async move { Ok::<_, Infallible>(Response::new(lease.to_string())) }
        };
        Client::new(tower::service_fn(respond), "default")
    }
}

impl LeasedMachine for Recorder {
    type Instant = Duration;
    type Closed = ();
    type Error = kube_api_client::Error;

    fn now(&self) -> Duration {
        self.with(|record| Duration::from_secs(record.requests.len() as u64))
    }

    fn epoch(&self) -> i32 {
        0
    }

    async fn close(&self) {}

    async fn end_pods(&mut self) -> kube_api_client::Result<()> {
        Ok(())
    }

    fn store_epoch(&mut self, _: i32) -> kube_api_client::Result<()> {
        Ok(())
    }

    fn set_deadline(&mut self, deadline: Duration) -> kube_api_client::Result<()> {
        self.with(|record| match record.disk_fails {
            true => Err(kube_api_client::Error::NoName),
            false => {
                record.deadlines.push(deadline);
                Ok(())
            }
        })
    }
}

/// The Lease of a node whose disk has failed is not renewed, so the pods fail over.
#[tokio::test]
async fn a_node_that_cannot_write_its_deadline_does_not_renew() {
    let recorder = Recorder::default();
    let mut keeper = LeaseKeeper::new(
        recorder.client(),
        "n1".into(),
        LeaseLength::MIN,
        recorder.clone(),
    );
    let now = Timestamp::UNIX_EPOCH;
    let requests = || recorder.with(|record| std::mem::take(&mut record.requests));
    keeper.renew(None, now).await.unwrap();
    assert_eq!(requests(), [Method::GET, Method::PATCH]);
    recorder.with(|record| record.disk_fails = true);
    keeper.renew(None, now).await.unwrap_err();
    assert_eq!(requests(), [Method::PATCH]);
    for _ in 0..3 {
        keeper.renew(None, now).await.unwrap_err();
    }
    assert_eq!(requests(), Vec::<Method>::new());
    recorder.with(|record| {
        record.disk_fails = false;
        record.deadlines.clear();
    });
    keeper.renew(None, now).await.unwrap();
    assert_eq!(requests(), [Method::PATCH]);
    // The deadline of the previous renewal is first.
    assert_eq!(recorder.with(|record| record.deadlines.len()), 2);
}
